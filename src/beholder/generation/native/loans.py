"""What a packed trunk keeps for the layers of a model whose weights are narrow: there is one copy of them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from beholder.core.narrow_linear import NarrowLinear

if TYPE_CHECKING:
    from beholder.generation.native.packed_parts import PackedParts

MAPS = Path("/proc/self/maps")  # what this process has mapped, on Linux
DETAILS = Path("/proc/self/smaps")  # the same with what each part takes
DONT_NEED = 4  # MADV_DONTNEED
PAGE = 4096
WIDE = (torch.float32, torch.bfloat16)  # what packed rows are made wide in; other formats follow from these


class Loan:
    """One layer's rows of a packed part. It keeps the trunk, and so what is lent, alive."""

    def __init__(self, trunk: PackedParts, linear: NarrowLinear, place: tuple[int, int, int, int]) -> None:
        self.trunk, self.linear, self.place = trunk, linear, place

    @property
    def part(self) -> tuple[int, int]:
        """The layer and the part of it that the rows are in."""
        return self.place[:2]

    @property
    def is_running(self) -> bool:
        """Whether the layer has not taken its weights back."""
        return self.linear.keeper is self

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Codes and scales of some rows, as the layer has them."""
        form, (_, columns) = self.linear.narrow, self.linear.shape
        codes = torch.empty(form.code_shape(last - first, columns), dtype=form.code_dtype, device="cpu")
        scales = torch.empty(form.scale_shape(last - first, columns), dtype=form.scale_dtype, device="cpu")
        with self.trunk.lending:
            if not self.is_running:  # given back since the layer looked
                return self.linear.rows(first, last)
            self.trunk.take(self.place, codes, scales, first, last)
        return codes, scales

    def widen(self, first: int, last: int, wide: Tensor) -> None:
        """What they stand for into (rows, columns)."""
        is_own = wide.dtype in WIDE and wide.is_contiguous()
        made = wide if is_own else torch.empty(wide.shape, dtype=torch.float32, device="cpu")
        with self.trunk.lending:
            if self.is_running:
                self.trunk.widen(self.place, made, first, last)
            else:
                made.copy_(self.linear.dense(first, last))
        if not is_own:
            wide.copy_(made)


def let_go(tensors: Iterable[Tensor]) -> None:
    """Give pages of a mapped file back that nobody needs any more, where tensors lie in one.

    The system would take them itself when memory is short; until then they would count as this process's.
    Tensors of the process's own memory are left alone.
    """
    if not sys.platform.startswith("linux") or not MAPS.is_file():
        return
    ranges = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors]
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    mapped = list(_files())
    for begin, end in ranges:
        first, last = -(-begin // PAGE) * PAGE, end // PAGE * PAGE
        is_mapped = any(start <= first and last <= stop for start, stop in mapped)
        if advise is not None and first < last and is_mapped:
            advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONT_NEED)


def let_go_of_files() -> None:
    """The same of all weight files that are mapped, where nobody has changed a number that is mapped.

    Before the packed weights are made: of tensors that were cast as they were read two copies would count.
    """
    if not sys.platform.startswith("linux") or not DETAILS.is_file():
        return
    files, here = set(_files()), (0, 0)
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    for line in DETAILS.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            start, _, stop = name.partition("-")
            here = int(start, 16), int(stop, 16)
        elif name == "Anonymous:" and rest.split() == ["0", "kB"] and here in files and advise is not None:
            advise(ctypes.c_void_p(here[0]), ctypes.c_size_t(here[1] - here[0]), DONT_NEED)


def _files() -> Iterable[tuple[int, int]]:
    """Where weight files are mapped."""
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].endswith(".safetensors"):
            start, _, stop = fields[0].partition("-")
            yield int(start, 16), int(stop, 16)
