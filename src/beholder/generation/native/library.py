"""The compiled decode step as Python sees it: whether it is there, for which processor, and its functions."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError
from beholder.generation.native.build import LIBRARY, digest

REMEDY = "build it with: python -m beholder.generation.native.build"
# The parts of a layer, and the head, as interface.cpp numbers them.
ENTER, LEAVE, WIDEN, NARROW, HEAD = range(5)


class Shape(Structure):
    """What a trunk is made from; the same as in trunk.h."""

    _fields_ = [
        *((name, c_int64) for name in ("layers", "hidden", "heads", "key_heads", "head_width", "inner")),
        *((name, c_int64) for name in ("vocabulary", "most_rows")),
        *((name, c_float) for name in ("epsilon", "scaling")),
        *((name, c_int32) for name in ("format", "group", "head_format", "head_group")),
    ]


class Step(Structure):
    """What one step is given; the same as in trunk.h."""

    _fields_ = [
        ("rows", c_int64),
        *((name, c_void_p) for name in ("hidden", "cosines", "sines", "ranges", "range_ends")),
        *((name, c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        ("places", c_int64),
        ("stored", c_int32),
        ("is_text", c_int32),
        ("logits", c_void_p),
        ("logits_stride", c_int64),
    ]


FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sources": (c_char_p, ()),
    "levels": (c_char_p, ()),
    "make": (c_char_p, (POINTER(Shape), c_char_p, c_int32, POINTER(c_int32), c_int32, POINTER(c_void_p))),
    "free": (None, (c_void_p,)),
    "pack": (None, (c_void_p, c_int64, c_int32, c_void_p, c_int32, c_int64, c_int64, c_int64)),
    "make_narrow": (
        c_char_p,
        (c_char_p, c_int32, c_int32, c_void_p, c_int32, c_int64, c_int64, c_void_p, c_void_p),
    ),
    "filter": (
        c_char_p,
        (c_char_p, c_int32, c_int64, c_int64, *(c_void_p,) * 4, c_int64, c_int64, c_void_p),
    ),
    "put_codes": (None, (c_void_p, c_int64, c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64)),
    "take_codes": (
        None,
        (c_void_p, c_int64, c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64),
    ),
    "widen_codes": (
        None,
        (c_void_p, c_int64, c_int32, c_void_p, c_int32, c_int64, c_int64, c_int64, c_int64),
    ),
    "drop": (None, (c_void_p, c_int64, c_int32)),
    "put_bias": (None, (c_void_p, c_int64, c_int32, c_void_p, c_int64, c_int64, c_int64)),
    "put_norm": (None, (c_void_p, c_int64, c_int32, c_void_p)),
    "unpack": (None, (c_void_p, c_int64, c_int32, c_int64, c_void_p)),
    "step": (c_char_p, (c_void_p, POINTER(Step))),
    "read": (c_double, (c_void_p, c_int64)),
    "bytes": (c_int64, (c_void_p,)),
}


@dataclass(frozen=True)
class Status:
    """Whether native decode can be used here."""

    is_built: bool
    levels: tuple[str, ...]  # what this processor has of those in build.py, best first
    reason: str  # why it is not built, or empty

    def __str__(self) -> str:
        return self.levels[0] if self.is_built else f"not built: {self.reason}; {REMEDY}"


class Library:
    """The functions of one compiled file; OSError if it cannot be loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(loaded, f"beholder_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.path} has no function {name!r}")


def find_library(path: Path = LIBRARY) -> Library | str:
    """The library at `path`, or why it cannot be used."""
    if not path.exists():
        return "it was not compiled when the package was installed"
    try:
        library = Library(path)
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded ({error})"
    if library.sources().decode() != digest():
        return f"{path} was compiled from other sources than these"
    return library


@cache
def _found() -> Library | str:
    return find_library()


def load() -> Library:
    """The package's library; ConfigError, with the remedy, where it is not built."""
    found = _found()
    if isinstance(found, str):
        raise ConfigError(f"native decode is not built: {found}; {REMEDY}, or decode with PyTorch")
    return found


def status() -> Status:
    """What `load` would find, and the levels of kernels for this processor."""
    found = _found()
    if isinstance(found, str):
        return Status(False, (), found)
    return Status(True, tuple(found.levels().decode().split()), "")


def forget() -> None:
    """Look again at the next call, after a build in this process."""
    _found.cache_clear()
