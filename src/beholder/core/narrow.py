"""The narrow form of a matrix: whole numbers of 8 or 4 bits, row by row, and their scales.

int8 holds a byte for each weight and one float32 scale for each row; int4 two weights in a byte and one
bfloat16 scale for each group of columns. Rounding is to nearest after a search for the scale that loses
least. Sums in that search are of whole numbers, so they come out the same in any order: the packing of
native decode finds the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from beholder.core.errors import ConfigError

GROUPS = (32, 64, 128)
SCALE_DTYPES = {"int8": torch.float32, "int4": torch.bfloat16}
CODE_DTYPES = {"int8": torch.int8, "int4": torch.uint8}
WORD = 4  # bytes; in int4 columns 8n .. 8n+3 stand in the low halves of a word, 8n+4 .. 8n+7 in the high ones
HALVES = (-8, 7)  # what half a byte holds
OFFSET = 8  # of what is stored in half a byte: value + 8
# What is smaller in all its weights counts as nothing: products with it are lost in any case.
SMALLEST = 2.0**-100
# The search looks at weights as whole numbers of this size, and tries these scales.
BYTE_SIZE, HALF_SIZE = 2.0**14, 2.0**13
BYTE_SHARES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7)
HALF_STEPS = tuple(-8 + 0.125 * step for step in range(-8, 21))
SEARCHED_AT_ONCE = 2**18  # weights: what the search keeps of them fits a processor's cache


# (weight, form, codes, scales): fills both; what finds the same numbers sooner.
Search = Callable[[Tensor, "Narrow", Tensor, Tensor], None]
_sooner: list[Search] = []


@dataclass(frozen=True)
class Narrow:
    """How a matrix is stored: "int8", or "int4", where `group` columns share a scale; else ConfigError."""

    weights: str
    group: int = 64

    def __post_init__(self) -> None:
        if self.weights not in CODE_DTYPES:
            raise ConfigError(f"weights {self.weights!r} are no narrow form; use {' or '.join(CODE_DTYPES)}")
        if type(self.group) is not int or self.group not in GROUPS:
            raise ConfigError(
                f"groups of {self.group} weights cannot share a scale; use {', '.join(map(str, GROUPS))}"
            )

    @property
    def code_dtype(self) -> torch.dtype:
        """What codes are stored as."""
        return CODE_DTYPES[self.weights]

    @property
    def scale_dtype(self) -> torch.dtype:
        """What scales are stored as."""
        return SCALE_DTYPES[self.weights]

    def code_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """The shape of a matrix's codes."""
        return rows, columns if self.weights == "int8" else -(-columns // 8) * WORD

    def scale_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of a matrix's scales."""
        return (rows,) if self.weights == "int8" else (rows, -(-columns // self.group))


def search_with(search: Search | None) -> None:
    """Let somebody who finds the same numbers search matrices on the CPU; with None PyTorch does."""
    _sooner[:] = [] if search is None else [search]


def quantize(weight: Tensor, narrow: Narrow) -> tuple[Tensor, Tensor]:
    """A matrix (rows, columns) of floats as codes and scales; ConfigError where one is no finite number."""
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ConfigError(
            f"a matrix of floats can be stored in {narrow.weights}, and this is {weight.dtype} of "
            f"{tuple(weight.shape)}"
        )
    rows, columns = weight.shape
    codes = torch.empty(narrow.code_shape(rows, columns), dtype=narrow.code_dtype, device=weight.device)
    scales = torch.empty(narrow.scale_shape(rows, columns), dtype=narrow.scale_dtype, device=weight.device)
    step = max(1, SEARCHED_AT_ONCE // max(1, columns))
    finite = [bool(weight[first : first + step].isfinite().all()) for first in range(0, rows, step)]
    if not all(finite):
        raise ConfigError(
            f"{int((~weight.isfinite()).sum())} of {weight.numel()} weights are infinite or no number, and "
            f"cannot be stored in {narrow.weights}; the checkpoint is damaged, or its numbers do not fit "
            "their format"
        )
    if _sooner and weight.device.type == "cpu":
        _sooner[0](weight.detach(), narrow, codes, scales)
        return codes, scales
    search = _bytes_of if narrow.weights == "int8" else _half_bytes_of
    for first in range(0, rows, step):
        found = search(weight[first : first + step].detach().float(), narrow.group)
        codes[first : first + step], scales[first : first + step] = found
    return codes, scales


def pack_halves(wholes: Tensor) -> Tensor:
    """Whole numbers from -8 to 7, (rows, columns), two in a byte; zeros fill up the last word."""
    rows, columns = wholes.shape
    filled = torch.nn.functional.pad(wholes, (0, -columns % (2 * WORD)))
    halves = (filled + OFFSET).to(torch.uint8).view(rows, -1, 2, WORD)
    return (halves[:, :, 0] | (halves[:, :, 1] << 4)).view(rows, -1)


def dequantize(codes: Tensor, scales: Tensor, narrow: Narrow, columns: int) -> Tensor:
    """What rows of codes stand for, (rows, columns) float32."""
    if narrow.weights == "int8":
        return codes.float().mul_(scales.float()[:, None])
    words = codes.view(len(codes), -1, WORD)
    wholes = torch.cat([words & 15, words >> 4], dim=2).view(len(codes), -1).float().sub_(OFFSET)
    groups = scales.shape[1]
    if groups * narrow.group == wholes.shape[1]:  # no copy of the scales where groups are whole
        wholes.view(len(codes), groups, narrow.group).mul_(scales.float()[:, :, None])
    else:
        each = scales.float().repeat_interleave(narrow.group, dim=1)
        wholes.mul_(each[:, : wholes.shape[1]])
    return wholes[:, :columns]


def _furthest(values: Tensor) -> Tensor:
    """Along the last axis the value furthest from zero with its sign; of two the negative one."""
    most, least = values.amax(-1).clamp_(min=0), values.amin(-1).neg_().clamp_(min=0)
    return torch.where(least >= most, -least, most)


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where there is none."""
    ones = torch.ones_like(scale)
    return torch.where(scale != 0, ones / torch.where(scale != 0, scale, ones), torch.zeros_like(scale))


def _as_wholes(values: Tensor, most: Tensor, size: float) -> Tensor:
    """Values as whole numbers up to `size`, which the one furthest from zero has."""
    factor = torch.full_like(most, size) / torch.where(most == 0, torch.ones_like(most), most)
    return (values * factor[..., None]).clamp_(-size, size).round_()


def _loss(scale: Tensor, unit: Tensor, products: Tensor, squares: Tensor) -> Tensor:
    """The sum of squares of what is lost, less that of the weights, which is the same for all scales."""
    wide = scale.double()
    return wide * (wide * squares - 2 * unit * products)


def _bytes_of(weight: Tensor, _: int) -> tuple[Tensor, Tensor]:
    """One scale for a row of bytes: cutting the few largest values may serve all others."""
    most = _furthest(weight).abs()
    most = torch.where(most < SMALLEST, torch.zeros_like(most), most)
    wholes, near = torch.empty_like(weight), _as_wholes(weight, most, BYTE_SIZE)
    unit, base = most.double() / BYTE_SIZE, most / torch.full_like(most, 127)
    best = torch.zeros_like(most)
    least = torch.full_like(unit, torch.inf)
    for share in BYTE_SHARES:
        scale = base * torch.full_like(base, share)
        torch.mul(weight, _inverse(scale)[:, None], out=wholes).clamp_(-127, 127).round_()
        products = (wholes * near).sum(-1, dtype=torch.float64)
        lost = _loss(scale, unit, products, wholes.square().sum(-1, dtype=torch.float64))
        is_better = lost < least
        best, least = torch.where(is_better, scale, best), torch.where(is_better, lost, least)
    torch.mul(weight, _inverse(best)[:, None], out=wholes).clamp_(-127, 127).round_()
    return wholes.to(torch.int8), best


def _half_bytes_of(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """One scale for each group: from -8 to 7, so the value furthest from zero leads the long side."""
    rows, columns = weight.shape
    groups, width = -(-columns // group), -(-columns // 8) * 8
    values = torch.nn.functional.pad(weight, (0, groups * group - columns)).view(rows, groups, group)
    most = _furthest(values)
    most = torch.where(most.abs() < SMALLEST, torch.zeros_like(most), most)
    scale = _best_half_byte_scale(values, most)
    wholes = (values * _inverse(scale)[..., None]).clamp_(*HALVES).round_().view(rows, -1)[:, :width]
    return pack_halves(wholes), scale.bfloat16()


def _best_half_byte_scale(values: Tensor, most: Tensor) -> Tensor:
    """Of the scales that put `most` at several places, and of those that fit best what they make."""
    near, unit = _as_wholes(values, most.abs(), HALF_SIZE), most.abs().double() / HALF_SIZE
    wholes, room = torch.empty_like(values), torch.empty_like(values)
    best = torch.zeros_like(most)
    least = torch.full_like(unit, torch.inf)
    for step in HALF_STEPS:
        scale = (most / torch.full_like(most, step)).bfloat16().float()
        for _ in range(2):
            torch.mul(values, _inverse(scale)[..., None], out=wholes).clamp_(*HALVES).round_()
            # Below 2^24, so exact in float32.
            products = torch.mul(wholes, near, out=room).sum(-1).double()
            squares = torch.mul(wholes, wholes, out=room).sum(-1).double()
            lost = _loss(scale, unit, products, squares)
            is_better = (lost < least) & (scale != 0)
            best, least = torch.where(is_better, scale, best), torch.where(is_better, lost, least)
            some = squares.clamp(min=1)
            scale = torch.where(scale != 0, unit * products / some, 0.0).float().bfloat16().float()
    return best
