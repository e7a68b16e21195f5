"""Tensors that are larger together than memory: each is written to a file at once and mapped from there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Scratch:
    """A folder below `beside` for the time of a `with`; needs as much room there as it holds.

    Mapped pages are the system's to drop, so what a program needs is about one tensor at a time.
    """

    def __init__(self, beside: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=beside))
        self._count = 0

    def hold(self, tensor: Tensor) -> Tensor:
        """The same numbers, in a file; an empty tensor as it is."""
        import torch

        if not tensor.numel():
            return tensor
        path = self._folder / str(self._count)
        self._count += 1
        tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tofile(path)
        mapped = torch.from_file(str(path), shared=False, size=tensor.numel(), dtype=tensor.dtype)
        return mapped.view(tensor.shape)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The files lose their names; tensors that are still in use keep what they show."""
        shutil.rmtree(self._folder, ignore_errors=True)
