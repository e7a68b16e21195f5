"""Boxes on a picture, for people: colours that the colour-blind tell apart, labels that never overlap."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageDraw, ImageFont

from beholder.core.errors import InputError
from beholder.core.types import Box

# Okabe and Ito's palette, strongest first; every further box begins again.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
MARGIN = 2  # pixels around a label's text
SMALLEST = 8  # a label is not written smaller than this
MISSING = "\uffff"  # no typeface has this character, so its shape is that of any character that is missing
# Where systems keep typefaces, and parts of the names of those with more than Latin characters.
FONT_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}
WIDE_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK", "NotoSansSC", "NotoSerifCJK", "SourceHanSans", "wqy-",
    "DroidSansFallback", "PingFang", "STHeiti",
    "Hiragino", "msyh", "simhei", "simsun", "unifont", "uming", "ukai",
)  # fmt: skip

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Area = tuple[float, float, float, float]

log = logging.getLogger("beholder")


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Box], labels: Sequence[str] = (), font: str | Path | None = None
) -> Image.Image:
    """A copy of the picture with the boxes, each in its own colour, and with labels where they are given.

    No label lies on another; one for which there is no room is left out with a warning. `font` is a typeface
    file; left out, one is looked for that has the characters.
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
        if label and not _write(canvas, copy.size, label, frames[number], colour, taken, font, shortest):
            log.warning("there is no room for the label %r", label)
    return copy


def _corners(box: Box) -> Area:
    """A model may name the corners in any order."""
    left, right = sorted((box.x1, box.x2))
    top, bottom = sorted((box.y1, box.y2))
    return left, top, right, bottom


def _write(
    canvas: ImageDraw.ImageDraw, size: tuple[int, int], label: str, frame: Area, colour: str,
    taken: list[Area], font: str | Path | None, shortest: int,
) -> bool:  # fmt: skip
    """Write a label where it fits: at its box if it can be, elsewhere if not, smaller if it must be."""
    points = max(10, round(shortest / 25))
    while points >= SMALLEST:
        face = find_font(label, points, str(font) if font else None)
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


def find_font(text: str, points: int, file: str | None = None) -> Font:
    """A typeface that has the characters of a text: the one given, Pillow's own, or one of the system's."""
    if file:
        try:
            return ImageFont.truetype(file, points)
        except OSError as error:
            raise InputError(f"{file} cannot be read as a typeface: {error}") from error
    plain = ImageFont.load_default(size=points)
    if text.isascii() or has_characters(plain, text):
        return plain
    for path in wide_fonts():
        face = ImageFont.truetype(path, points)
        if has_characters(face, text):
            return face
    log.warning(
        "no typeface here has all characters of %r; install Noto Sans CJK or name a typeface file", text
    )
    return plain


def has_characters(font: Font, text: str) -> bool:
    """Whether no character of a text looks like one that is missing."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    missing = _shape(font, MISSING)
    return all(char.isspace() or _shape(font, char) != missing for char in set(text))


def _shape(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask = cast(Any, font.getmask(char))  # Pillow's own picture type, which its stubs do not describe
    return mask.size, bytes(mask)


@lru_cache(maxsize=1)
def wide_fonts() -> tuple[str, ...]:
    """Typeface files of this system that are known to hold thousands of characters."""
    found: list[str] = []
    for folder in FONT_FOLDERS.get(sys.platform, FONT_FOLDERS["linux"]):
        for home, _, names in os.walk(os.path.expanduser(folder)):
            found += [os.path.join(home, name) for name in sorted(names) if _is_wide(name)]
    return tuple(found)


def _is_wide(name: str) -> bool:
    return name.lower().endswith((".ttf", ".ttc", ".otf")) and any(part in name for part in WIDE_FONTS)
