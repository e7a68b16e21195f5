"""Large pictures made smaller by the native filter: the bytes that Pillow gives, in a fraction of its time.

Its two passes are described by their weights (`processing/bicubic.py`), which are known there and not here.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, Structure, c_char_p, c_int64, c_void_p
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beholder.core.errors import ConfigError
from beholder.generation.native import library as native

Pixels = NDArray[np.uint8]

ROWS = 128  # that a thread takes at once: of a wide picture they stay in the processor's cache
ACROSS, DOWN = range(2)
_pillow: Any = Image.core


class Pass(Protocol):
    """Where each place of the result begins, its weights, and what its sums begin with; int32 arrays."""

    @property
    def firsts(self) -> NDArray[np.int32]:
        """(places,)."""
        ...

    @property
    def weights(self) -> NDArray[np.int32]:
        """(places, taps), with 22 bits behind the point; taps a multiple of 4."""
        ...

    @property
    def starts(self) -> NDArray[np.int32]:
        """(places, 4)."""
        ...


class Filter:
    """The two passes, of pixels of four bytes."""

    def __init__(self, level: str | None = None) -> None:
        self._library = native.load()
        self._level = (level or native.status().levels[0]).encode()

    def across(self, image: Image.Image, way: Pass, threads: int) -> Pixels:
        """An RGB picture to (its height, places, 4), in strips of rows by so many threads."""
        height, width = image.height, image.width
        made = np.empty((height, len(way.firsts), 4), np.uint8)
        # Of a very wide picture fewer: Pillow keeps more than a block of memory holds in several pieces.
        rows = max(1, min(ROWS, _pillow.get_block_size() // (4 * width)))

        def strip(first: int) -> None:
            part = image.crop((0, first, width, min(first + rows, height)))
            self._run(ACROSS, way, _address(part), 4 * width, part.height, made[first:])

        with ThreadPoolExecutor(threads, thread_name_prefix="beholder-picture") as pool:
            list(pool.map(strip, range(0, height, rows)))
        return made

    def down(self, pixels: Pixels, way: Pass) -> Pixels:
        """(height, width, 4), at least 4 wide, to (places, width, 4)."""
        width = pixels.shape[1]
        made = np.empty((len(way.firsts), width, 4), np.uint8)
        self._run(DOWN, way, pixels.ctypes.data, 4 * width, 4 * width, made)
        return made

    def _run(self, axis: int, way: Pass, pixels: int, stride: int, count: int, made: Pixels) -> None:
        places, taps = way.weights.shape
        wrong = self._library.filter(
            self._level, axis, places, taps, way.firsts.ctypes.data, way.weights.ctypes.data,
            way.starts.ctypes.data, pixels, stride, count, made.ctypes.data,
        )  # fmt: skip
        if wrong:
            raise ConfigError(f"native decode: {wrong.decode()}")


def filter_here() -> Filter | None:
    """The filter at this processor's level, if the library is built.

    Not where PILLOW_ALIGNMENT asks for gaps between rows, which are read as one piece here.
    """
    return Filter() if native.status().is_built and _pillow.get_alignment() == 1 else None


class _Array(Structure):
    """An array of the Arrow C data interface."""


_Array._fields_ = [
    *((name, c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", POINTER(c_void_p)),
    ("children", POINTER(POINTER(_Array))),
]


def _address(image: Image.Image) -> int:
    """Where the pixels of a picture stand that has few enough to be in one piece, without copying them."""
    content = ctypes.pythonapi.PyCapsule_GetPointer
    content.restype, content.argtypes = c_void_p, (ctypes.py_object, c_char_p)
    told: Any = image
    _schema, capsule = told.__arrow_c_array__()
    array = ctypes.cast(content(capsule, b"arrow_array"), POINTER(_Array)).contents
    address = array.children[0].contents.buffers[1]
    assert address
    return address
