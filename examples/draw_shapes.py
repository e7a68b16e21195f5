"""Draws shapes.png, the picture of `make demo`: a red circle, a blue square, a yellow star, a word."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FINE = 640, 480, 4  # drawn FINE times larger, then reduced: smooth edges


def star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Ten corners of a five-pointed star that stands on two of its points."""
    corners = []
    for index in range(10):
        reach = radius if index % 2 == 0 else 0.45 * radius
        angle = math.radians(36 * index - 90)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def draw() -> Image.Image:
    """The picture."""
    image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), (236, 236, 232))
    pen = ImageDraw.Draw(image)
    pen.ellipse([FINE * v for v in (60, 60, 240, 240)], fill=(214, 40, 40))
    pen.rectangle([FINE * v for v in (400, 70, 570, 240)], fill=(36, 84, 200))
    pen.polygon([(FINE * x, FINE * y) for x, y in star(155, 365, 90)], fill=(246, 205, 40))
    font = ImageFont.load_default(FINE * 72)
    pen.text((FINE * 470, FINE * 365), "STOP", fill=(20, 20, 20), font=font, anchor="mm")
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(Path(__file__).with_name("shapes.png"), optimize=True)
