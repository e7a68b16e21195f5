"""Boxes as models write them, and as pixels of the original picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

from beholder.core.types import Box

Fractions = tuple[float, float, float, float]

_THOUSANDTHS = re.compile(
    r"\[\[(\s*\d{1,3}(?:\s*,\s*\d{1,3}){3}(?:\s*;\s*\d{1,3}(?:\s*,\s*\d{1,3}){3})*\s*)\]\]"
)
_NUMBER = r"\s*(?:0?\.\d+|[01](?:\.\d*)?)\s*"
_UNIT = re.compile(rf"(?<!\[)\[({_NUMBER}(?:,{_NUMBER}){{3}})\](?!\])")


@dataclass(frozen=True)
class Frame:
    """The rectangle that fractions of a box refer to, in pixels of the original picture.

    It may reach beyond the picture: a picture padded to a square is answered in fractions of the square.
    """

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def picture(cls, width: int, height: int) -> Frame:
        """Fractions of the picture itself."""
        return cls(0, 0, width, height)

    @classmethod
    def padded_square(cls, width: int, height: int) -> Frame:
        """Fractions of the square around the picture; an odd border pixel is at the right or the bottom."""
        side = max(width, height)
        return cls(-((side - width) // 2), -((side - height) // 2), side, side)


def parse_boxes(text: str) -> list[Fractions]:
    """All boxes of an answer in reading order, as (x1, y1, x2, y2) fractions of the frame.

    Two forms are read: `[[012,345,678,901]]` in thousandths, where `;` separates several, and
    `[0.1, 0.2, 0.3, 0.4]`. What has another form, or other numbers, is text and no box.
    """
    found: list[tuple[int, Fractions]] = []
    for match in _THOUSANDTHS.finditer(text):
        for part in match[1].split(";"):
            # 000-999 names a thousandth of the frame by its start, so 1000 is never written.
            found.append((match.start(), _four([int(number) / 1000 for number in part.split(",")])))
    for match in _UNIT.finditer(text):
        numbers = [float(number) for number in match[1].split(",")]
        if max(numbers) <= 1:
            found.append((match.start(), _four(numbers)))
    found.sort(key=lambda pair: pair[0])
    return [box for _, box in found]


def _four(numbers: list[float]) -> Fractions:
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


def to_pixels(fractions: Fractions, frame: Frame, picture: int = 0) -> Box:
    """A box of fractions as pixels of the original picture, number `picture` of the conversation."""
    x1, y1, x2, y2 = fractions
    return Box(
        frame.left + x1 * frame.width,
        frame.top + y1 * frame.height,
        frame.left + x2 * frame.width,
        frame.top + y2 * frame.height,
        picture,
    )


def clip(box: Box, width: int, height: int) -> Box:
    """The part of a box that lies on the picture."""
    return Box(
        min(max(box.x1, 0.0), width),
        min(max(box.y1, 0.0), height),
        min(max(box.x2, 0.0), width),
        min(max(box.y2, 0.0), height),
        box.picture,
    )
