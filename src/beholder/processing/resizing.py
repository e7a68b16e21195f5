"""Pillow's antialiased bicubic filter to the last bit, with less work for large pictures.

It works in two passes, across and then down, that each round to bytes. Rows do not depend on each other in
the first, so strips of them may be computed side by side, and a border of one colour stays that colour.
Somebody who sums pixels up faster than Pillow may be asked to do it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beholder.processing.bicubic import Pass, bicubic

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

BICUBIC = Image.Resampling.BICUBIC
# Below so many pixels a thread takes longer to start than it saves.
LARGE = 2**21
MOST_THREADS = 4
STRIP = 128  # rows
NARROWEST = 4  # pixels of a row that a filter writes at once


class Filter(Protocol):
    """Who computes the two passes of a large picture, in pixels of four bytes."""

    def across(self, image: Image.Image, way: Pass, threads: int) -> Pixels:
        """An RGB picture to (its height, places, 4)."""
        ...

    def down(self, pixels: Pixels, way: Pass) -> Pixels:
        """(height, width, 4) to (places, width, 4)."""
        ...


_find_filter: Callable[[], Filter | None] = lambda: None  # noqa: E731  (it is replaced, not called by name)


def filter_with(find: Callable[[], Filter | None]) -> None:
    """Ask this for who filters large pictures; None where Pillow does."""
    global _find_filter
    _find_filter = find


def threads() -> int:
    """How many of a picture's parts are worth computing at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGB picture to exactly (width, height).

    The order of the passes moves pixels, by up to a tenth of the range. Pillow 12 always begins with the
    width; Pillow 13, which the goldens were made with, begins with the height where that shrinks by more than
    twice what the width does. That order is taken under either of them.
    """
    width, height = size
    shrinks = image.height - height
    if shrinks > max(0, 2 * (image.width - width)):
        return image.resize((image.width, height), BICUBIC).resize(size, BICUBIC)
    if (made := _filtered(image, size)) is not None:
        return made
    return _across(image, width).resize(size, BICUBIC)


def resize_shortest_edge(image: Image.Image, side: int) -> Image.Image:
    """Bring the shorter edge to `side`; the longer one follows, rounded down."""
    width, height = image.size
    if width <= height:
        return resize(image, (side, int(side * height / width)))
    return resize(image, (int(side * width / height), side))


def resize_on_square(image: Image.Image, colour: Colour, side: int) -> Image.Image:
    """The same as `resize(pad_to_square(image, colour), (side, side))`, without making the square.

    Of a wide picture the border is put on after the first pass. Of a tall one each strip of rows gets its
    own, for there pixels of the border and of the picture are mixed.
    """
    edge = max(image.size)
    if (made := _filtered(image, (side, side), edge, colour)) is not None:
        return made
    above, beside = (edge - image.height) // 2, (edge - image.width) // 2
    across = _across(image, side, edge, beside, colour)
    if above == 0 and across.height == edge:
        return across.resize((side, side), BICUBIC)
    canvas = Image.new("RGB", (side, edge), colour)
    canvas.paste(across, (0, above))
    return canvas.resize((side, side), BICUBIC)


def _filtered(
    image: Image.Image, size: tuple[int, int], edge: int | None = None, colour: Colour = (0, 0, 0)
) -> Image.Image | None:
    """Both passes by the filter, on a square of `edge` if that is given; None where Pillow has to do it."""
    if image.width * image.height < LARGE or size[0] < NARROWEST or (found := _find_filter()) is None:
        return None
    wide, tall = (edge or image.width), (edge or image.height)
    across = bicubic(image.width, size[0], wide, (wide - image.width) // 2, colour)
    down = bicubic(image.height, size[1], tall, (tall - image.height) // 2, colour)
    if across is None or down is None:
        return None
    pixels = found.down(found.across(image, across, threads()), down)
    return Image.frombytes("RGB", size, pixels.data, "raw", "RGBX")


def _across(
    image: Image.Image, width: int, edge: int | None = None, beside: int = 0, colour: Colour = (0, 0, 0)
) -> Image.Image:
    """The first pass, (width, the picture's height): of the picture, or of it with `beside` pixels of border
    to the left and as many to the right as make `edge`."""
    edge = image.width if edge is None else edge
    height, count = image.height, threads()

    def strip(first: int, last: int) -> Image.Image:
        if edge == image.width:
            return image.resize((width, last - first), BICUBIC, (0, first, edge, last))
        rows = Image.new("RGB", (edge, last - first), colour)
        rows.paste(image, (beside, -first))
        return rows.resize((width, last - first), BICUBIC)

    # Rows with a border are a copy, which in strips stays in the processor's cache: one thread gains too.
    if edge * height < LARGE or (count == 1 and edge == image.width):
        return strip(0, height)
    made = Image.new("RGB", (width, height))
    borders = [*range(0, height, STRIP), height]
    with ThreadPoolExecutor(count, thread_name_prefix="beholder-picture") as pool:
        for first, part in zip(borders, pool.map(strip, borders[:-1], borders[1:]), strict=False):
            made.paste(part, (0, first))
    return made
