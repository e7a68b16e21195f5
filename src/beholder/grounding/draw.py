"""Boxes on a picture, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from beholder.core.errors import InputError
from beholder.core.types import Box

# Told apart also by the colour-blind, and against each other; every further box begins again.
COLOURS = ("#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")


def draw_boxes(picture: Image.Image, boxes: Sequence[Box], labels: Sequence[str] = ()) -> Image.Image:
    """A copy of the picture with the boxes, each in its own colour, and with labels where they are given."""
    if labels and len(labels) != len(boxes):
        raise InputError(f"{len(boxes)} boxes have {len(labels)} labels; give one for each box or none")
    copy = picture.convert("RGB")
    canvas = ImageDraw.Draw(copy)
    shortest = min(copy.size)
    line = max(1, round(shortest / 150))
    font = ImageFont.load_default(size=max(10, round(shortest / 25)))
    for number, box in enumerate(boxes):
        colour = COLOURS[number % len(COLOURS)]
        # A model may name the corners in any order.
        left, right = sorted((box.x1, box.x2))
        top, bottom = sorted((box.y1, box.y2))
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        if labels:
            _write(canvas, labels[number], (left, top), colour, font)
    return copy


def _write(
    canvas: ImageDraw.ImageDraw,
    label: str,
    corner: tuple[float, float],
    colour: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """White on the box's colour, above the corner where there is room and inside the box otherwise."""
    left, top, right, bottom = canvas.textbbox((0, 0), label, font=font)
    width, height = right - left, bottom - top
    x = max(corner[0], 0.0)
    y = corner[1] - height - 4 if corner[1] - height - 4 >= 0 else max(corner[1], 0.0)
    canvas.rectangle((x, y, x + width + 4, y + height + 4), fill=colour)
    canvas.text((x + 2 - left, y + 2 - top), label, fill="white", font=font)
