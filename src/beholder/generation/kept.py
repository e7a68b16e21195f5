"""One layer's keys or values in fixed places: as the model has them, or as whole numbers of 8 bits.

A token's numbers of one head share a scale then, which follows from them alone: however and with whomever a
token is stored, it is stored as the same bytes. Native decode stores the same ones (`attention_bytes.h`).

Shape letters: N places, H key heads, D head width, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 127  # what the number furthest from zero becomes
# A token whose numbers are all smaller is stored as nothing: products with it are lost in any case.
SMALLEST = 2.0**-100


def to_bytes(wide: Tensor) -> tuple[Tensor, Tensor]:
    """(..., D) floats as (..., D) int8 and one float32 scale for each D.

    Rounded to nearest, halves to the even one. Where a number is infinite or none the scale is none, and so
    is whatever is computed with it.
    """
    numbers = wide.float()
    most = numbers.abs().amax(-1)
    most = torch.where(most.isfinite(), most, torch.full_like(most, torch.nan))
    most = torch.where(most < SMALLEST, torch.zeros_like(most), most)
    # Tensors on both sides: a plain number would be divided by with another rounding.
    whole = torch.full_like(most, MOST)
    inverse = torch.where(most > 0, whole / most, torch.zeros_like(most))
    codes = (numbers * inverse[..., None]).clamp_(-MOST, MOST).round_().nan_to_num_(0)
    return codes.to(torch.int8), most / whole


def from_bytes(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """What `to_bytes` leaves of the numbers."""
    return codes.float().mul_(scales[..., None]).to(dtype)


@dataclass(eq=False)
class Kept:
    """The numbers, (H, N, D), and the scales of those in int8, (H, N), else None; read in `dtype`."""

    numbers: Tensor
    scales: Tensor | None
    dtype: torch.dtype

    @classmethod
    def like(cls, sample: Tensor, shape: tuple[int, int, int], nothing: int, *, in_bytes: bool) -> Kept:
        """Memory of `shape` (H, N, D) for numbers like the sample's, the first `nothing` places zero."""
        dtype = torch.int8 if in_bytes else sample.dtype
        numbers = torch.empty(shape, dtype=dtype, device=sample.device)
        scales = torch.empty(shape[:2], dtype=torch.float32, device=sample.device) if in_bytes else None
        # Read, but masked; it must be a number.
        numbers[:, :nothing] = 0
        if scales is not None:
            scales[:, :nothing] = 0
        return cls(numbers, scales, sample.dtype)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All memory there is."""
        return (self.numbers,) if self.scales is None else (self.numbers, self.scales)

    def write(self, at: tuple[int, int] | Tensor, new_HTD: Tensor) -> None:
        """Store tokens at a range of places, or at places told one by one."""
        new = (new_HTD,) if self.scales is None else to_bytes(new_HTD)
        for memory, given in zip(self.tensors, new, strict=True):
            if isinstance(at, tuple):
                memory[:, at[0] : at[1]] = given
            else:
                memory.index_copy_(1, at, given)

    def run(self, first: int, last: int) -> Tensor:
        """The tokens of a range of places, (H, T, D): where they stand, if they need not be made wide."""
        return self._wide(*(memory[:, first:last] for memory in self.tensors))

    def gathered(self, places: Tensor) -> Tensor:
        """The tokens of these places, (H, T, D)."""
        return self._wide(*(memory.index_select(1, places) for memory in self.tensors))

    def _wide(self, numbers: Tensor, scales: Tensor | None = None) -> Tensor:
        return numbers if scales is None else from_bytes(numbers, scales, self.dtype)
