"""Tables of the rotary positions, made by the model itself and kept as far as they were needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from beholder.core.errors import InputError
from beholder.generation.native.parts import Rotary

STEP = 1024  # positions that are added at once


class RotaryTable:
    """Cosines and sines by position."""

    def __init__(self, rotary: Rotary) -> None:
        self._rotary = rotary
        self._tables: tuple[Tensor, Tensor] | None = None

    def rows(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(rows, width / 2) each, float32; positions count from 0."""
        if min(positions) < 0:
            raise InputError(f"position {min(positions)} is before the beginning")
        if self._tables is None or max(positions) >= len(self._tables[0]):
            length = (max(positions) // STEP + 1) * STEP
            cosines, sines = self._rotary(torch.arange(length))
            self._tables = cosines.float().contiguous(), sines.float().contiguous()
        index = torch.tensor(positions)
        return self._tables[0].index_select(0, index), self._tables[1].index_select(0, index)
