"""Boxes on a picture, for people: colours that the colour-blind tell apart, labels that never overlap."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from beholder.core.errors import InputError
from beholder.core.types import Box
from beholder.grounding.typefaces import Typeface, find_typeface

# Okabe and Ito's palette, strongest first; every further box begins again.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
MARGIN = 2  # pixels around a label's text
SMALLEST = 8  # a label is not written smaller than this
Area = tuple[float, float, float, float]

log = logging.getLogger("beholder")


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Box], labels: Sequence[str] = (), font: str | Path | None = None
) -> Image.Image:
    """A copy of the picture with the boxes, each in its own colour, and with labels where they are given.

    No label lies on another; one for which there is no room is left out with a warning. `font` is a typeface
    file; left out, one is looked for that has the characters. A label that no typeface has is the number of
    its box (from 1), with a warning: never empty boxes in place of characters.
    """
    if labels and len(labels) != len(boxes):
        raise InputError(f"{len(boxes)} boxes have {len(labels)} labels; give one for each box or none")
    copy = picture.convert("RGB")
    canvas = ImageDraw.Draw(copy)
    shortest = min(copy.size)
    line = max(1, round(shortest / 150))
    frames = [_corners(box) for box in boxes]
    for number, frame in enumerate(frames):
        canvas.rectangle(frame, outline=COLOURS[number % len(COLOURS)], width=line)
    taken: list[Area] = []
    for number, label in enumerate(labels):
        colour = COLOURS[number % len(COLOURS)]
        text, face = _written(label, number + 1, str(font or ""))
        if text and not _write(canvas, copy.size, text, frames[number], colour, taken, face, shortest):
            log.warning("there is no room for the label %r", text)
    return copy


def _written(label: str, number: int, font: str) -> tuple[str, Typeface]:
    """A label as it is drawn, in a typeface that has all of it; where none has, the number of the box."""
    text = re.sub(r"[^\S\n]", " ", label)
    if face := find_typeface(text, font):
        return text, face
    if font:
        log.warning("%s lacks characters of the label %r; its box is called %d", font, label, number)
    else:
        log.warning(
            "no typeface here has all characters of the label %r; its box is called %d. Install Noto Sans "
            "CJK (Debian: fonts-noto-cjk) or name a typeface file", label, number,
        )  # fmt: skip
    return str(number), Typeface()


def _corners(box: Box) -> Area:
    """A model may name the corners in any order."""
    left, right = sorted((box.x1, box.x2))
    top, bottom = sorted((box.y1, box.y2))
    return left, top, right, bottom


def _write(
    canvas: ImageDraw.ImageDraw, size: tuple[int, int], label: str, frame: Area, colour: str,
    taken: list[Area], typeface: Typeface, shortest: int,
) -> bool:  # fmt: skip
    """Write a label where it fits: at its box if it can be, elsewhere if not, smaller if it must be."""
    points = max(10, round(shortest / 25))
    while points >= SMALLEST:
        face = typeface.at(points)
        left, top, right, bottom = canvas.multiline_textbbox((0, 0), label, font=face)
        width, height = right - left + 2 * MARGIN, bottom - top + 2 * MARGIN
        area = next((a for a in _places(frame, width, height, size) if _is_free(a, size, taken)), None)
        if area:
            taken.append(area)
            canvas.rectangle(area, fill=colour)
            place = (area[0] + MARGIN - left, area[1] + MARGIN - top)
            canvas.multiline_text(place, label, fill=ink_on(colour), font=face)
            return True
        points = points * 3 // 4
    return False


def _places(frame: Area, width: float, height: float, size: tuple[int, int]) -> Iterator[Area]:
    """Where a label may go, best first: above its box, below, inside, beside; then anywhere near."""
    left, top, right, bottom = frame
    corners = [(left, top - height), (left, bottom), (left, top), (left, bottom - height), (right, top)]
    corners += [(right - width, top - height), (right - width, bottom), (left - width, top)]
    for x, y in corners:
        # Slid into the picture, as a box may reach beyond it.
        x, y = min(max(x, 0), size[0] - 1 - width), min(max(y, 0), size[1] - 1 - height)
        yield x, y, x + width, y + height
    step = max(4.0, height / 2)
    grid = [
        (x * step, y * step) for y in range(int(size[1] / step) + 1) for x in range(int(size[0] / step) + 1)
    ]
    for x, y in sorted(grid, key=lambda corner: (corner[0] - left) ** 2 + (corner[1] - top) ** 2):
        yield x, y, x + width, y + height


def _is_free(area: Area, size: tuple[int, int], taken: Sequence[Area]) -> bool:
    left, top, right, bottom = area
    if left < 0 or top < 0 or right > size[0] - 1 or bottom > size[1] - 1:
        return False
    return not any(left <= t[2] and t[0] <= right and top <= t[3] and t[1] <= bottom for t in taken)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if light > 0.179 else "white"
