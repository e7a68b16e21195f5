"""Weights made narrow by the native search: the same numbers as PyTorch's, in a part of the time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from beholder.core.errors import ConfigError
from beholder.core.narrow import Narrow, search_with
from beholder.generation.native import library as native
from beholder.generation.native.formats import FORMATS

ROWS = 64  # that a thread takes at once


def install() -> None:
    """Let `core.narrow.quantize` search natively where the library is built."""
    search_with(fill if native.status().is_built else None)


def fill(weight: Tensor, narrow: Narrow, codes: Tensor, scales: Tensor, level: str | None = None) -> None:
    """Codes and scales of a matrix on the CPU, in pieces of rows by as many threads as PyTorch has."""
    library, level = native.load(), level or native.status().levels[0]
    is_bfloat = weight.dtype == torch.bfloat16

    def piece(first: int) -> None:
        some = weight[first : first + ROWS]
        rows = (some if is_bfloat else some.float()).contiguous()
        to = codes[first : first + ROWS], scales[first : first + ROWS]
        wrong = library.make_narrow(
            level.encode(), FORMATS.index(narrow.weights), narrow.group, rows.data_ptr(), is_bfloat,
            *rows.shape, to[0].data_ptr(), to[1].data_ptr(),
        )  # fmt: skip
        if wrong:
            raise ConfigError(f"native decode: {wrong.decode()}")

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(piece, range(0, len(weight), ROWS)))
