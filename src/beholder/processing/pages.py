"""Memory for the pixels of large pictures that the system hands out in large pages.

In small ones it comes with twelve thousand interruptions for twelve megapixels, which take a third of the
time that a JPEG of that size is decoded in. Nothing of this changes a pixel.
"""

from __future__ import annotations

import mmap
from typing import cast

from PIL import Image

LARGE = 2**21  # pixels, four bytes each
# Formats that Pillow decodes row by row into memory that is there before.
FORMATS = ("JPEG", "MPO")
# Where there are no large pages, Pillow takes memory itself.
HAS_LARGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE")


def give_room(image: Image.Image) -> None:
    """Let a large RGB picture that is not decoded yet be decoded into large pages, where there are any."""
    if not HAS_LARGE_PAGES or image.format not in FORMATS or image.mode != "RGB":
        return
    if image.width * image.height < LARGE or not getattr(image, "tile", None):
        return
    try:
        memory = mmap.mmap(-1, 4 * image.width * image.height, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them, or without so much memory: Pillow says so then
        return
    # Pillow maps pixels of four bytes only, and keeps RGB in as many. What it makes holds on to the memory.
    room = Image.frombuffer("RGBX", image.size, cast("bytes", memory), "raw", "RGBX", 0, 1)
    room.im.setmode("RGB")
    image.im = room.im
