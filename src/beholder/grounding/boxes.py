"""Boxes as fractions of what a model saw, and as pixels of the original picture."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.core.types import Box

Fractions = tuple[float, float, float, float]


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
