"""Boxes named in answers against a true box: precision of referring expressions at IoU 0.5."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from typing import Any

Corners = Sequence[float]  # x1, y1, x2, y2

HIT = 0.5
NUMBER = re.compile(r"-?\d*\.?\d+")


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union; 0 where the boxes do not overlap."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return inside / (sum(areas) - inside)


def from_padded_square(box: Corners, width: int, height: int) -> tuple[float, float, float, float]:
    """Fractions of the square around a picture as pixels of the picture."""
    side = max(width, height)
    left, top = int((side - width) / 2), int((side - height) / 2)
    return box[0] * side - left, box[1] * side - top, box[2] * side - left, box[3] * side - top


def any_part_hits(text: str, truth: Corners, width: int, height: int) -> bool:
    """Whether one of the boxes parted by "; " hits, before the first part that cannot be read.

    From qh360_vl/eval/compute_precision.py (ad6a11c), which evaluates the parts as Python; here only literals
    are read. More than four numbers are cut, fewer end the line.
    """
    for part in text.split("; "):
        corners = _literal(part)
        if corners is None:
            return False
        if overlap(from_padded_square(corners, width, height), truth) >= HIT:
            return True
    return False


def _literal(text: str) -> list[float] | None:
    try:
        with warnings.catch_warnings():  # "0.5is" parses with a warning where it parses at all
            warnings.simplefilter("ignore")
            value: Any = ast.literal_eval(text)
        corners = [value[index] for index in range(4)]
        # Numbers in quotes cannot be multiplied by a size, so the original fails on them.
        are_numbers = all(isinstance(one, int | float) for one in corners)
        return [float(one) for one in corners] if are_numbers else None
    except (ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return None


def first_box_hits(text: str, truth: Corners, width: int, height: int) -> bool:
    """The rule without quirks: the first four numbers of the answer are the box, whatever stands around."""
    numbers = [float(number) for number in NUMBER.findall(text)[:4]]
    if len(numbers) < 4:
        return False
    return overlap(from_padded_square(numbers, width, height), truth) >= HIT
