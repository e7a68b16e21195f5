"""Packed rows made wide natively: the numbers, bit for bit, that PyTorch makes of their codes and scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.equality.native_cases import ensure_built, tiny_llama
from tests.unit.test_narrow import FORMS, NAMES, ROWS, drawn

from beholder.core import narrow_linear
from beholder.core.narrow import Narrow, dequantize
from beholder.core.narrow_linear import NarrowLinear
from beholder.generation.native import library as native
from beholder.generation.native.loans import Loan
from beholder.generation.native.trunk import PackedTrunk

ensure_built()
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def packed(weight: torch.Tensor, form: Narrow, level: str, threads: int) -> PackedTrunk:
    """A trunk with this matrix (64, columns) as its layer's last linear."""
    model: Any = tiny_llama(num_hidden_layers=1, intermediate_size=weight.shape[1])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.copy_(weight)
    return PackedTrunk.of(model, form.weights, group=form.group, threads=threads, level=level)


@pytest.mark.parametrize("level", native.status().levels)
@pytest.mark.parametrize("columns", [1, 5, 7, 33, 50, 152, 320])
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_wide_rows_are_those_of_pytorch(form, columns, level):
    """Zeros of either sign, numbers at the edges of the formats, rests of words and of groups."""
    place = (0, native.NARROW, 0, 1)
    for kind in ("normal", "tails", "whole"):
        trunk = packed(drawn(kind, columns), form, level, threads=3)
        codes = torch.empty(form.code_shape(ROWS, columns), dtype=form.code_dtype)
        scales = torch.empty(form.scale_shape(ROWS, columns), dtype=form.scale_dtype)
        trunk.take(place, codes, scales, 0, ROWS)
        wanted = dequantize(codes, scales, form, columns)
        for first, last in ((0, ROWS), (3, 4), (15, 49)):
            for dtype in (torch.float32, torch.bfloat16):
                wide = torch.full((last - first, columns), torch.nan, dtype=dtype)
                trunk.widen(place, wide, first, last)
                exact = wanted[first:last].to(dtype)
                assert torch.equal(wide.view(BITS[dtype]), exact.view(BITS[dtype])), (kind, dtype, first)


def wide(loan: Loan, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
    made = torch.full((last - first, loan.linear.in_features), torch.nan, dtype=dtype)
    loan.widen(first, last, made)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS[:2], ids=NAMES[:2])
def test_a_loan_gives_what_the_layer_would(form, dtype, monkeypatch):
    """Rows of gate and up stand in turns; other formats follow from the two that rows are made in."""
    model: Any = tiny_llama(num_hidden_layers=1)
    dense = model.model.layers[0].mlp.up_proj
    trunk = PackedTrunk.of(model, form.weights, group=form.group, threads=2)
    narrow = NarrowLinear.of(dense, form)
    loan = Loan(trunk, narrow, (0, native.WIDEN, 16, 2))
    for first, last in ((0, 152), (20, 21), (30, 47)):
        got, wanted = wide(loan, first, last, dtype), narrow.dense(first, last, dtype)
        assert got.dtype == wanted.dtype == dtype
        assert torch.equal(got.view(BITS[dtype]), wanted.view(BITS[dtype]))
    inputs = torch.randn(3, 64).to(dtype)
    wanted = narrow(inputs)
    narrow.lend(loan)
    assert torch.equal(narrow.dense(3, 9, dtype), wide(loan, 3, 9, dtype))
    for is_trained in (False, True):
        with torch.set_grad_enabled(is_trained):
            assert torch.equal(narrow(inputs), wanted)
    monkeypatch.setattr(narrow_linear, "BLOCK_WEIGHTS", 50 * 64)  # blocks that share their memory
    with torch.no_grad():
        torch.testing.assert_close(narrow(inputs), wanted)
    inputs.requires_grad_(True)
    narrow(inputs).sum().backward()
    assert inputs.grad is not None
    sums = narrow.dense().sum(0).to(dtype).expand(3, 64)
    torch.testing.assert_close(inputs.grad, sums, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("form", FORMS[:2], ids=NAMES[:2])
def test_what_is_no_number_stays_none(form):
    """Scales from a file may be anything."""
    model: Any = tiny_llama(num_hidden_layers=1)
    narrow = NarrowLinear.of(model.model.layers[0].mlp.down_proj, form)
    with torch.no_grad():
        narrow.scales[3] = torch.nan
        narrow.scales[4] = torch.inf
    trunk = PackedTrunk.of(model, form.weights, group=form.group, threads=1)
    place = (0, native.NARROW, 0, 1)
    trunk._native.put_codes(
        trunk._handle, *place[:2], narrow.codes.data_ptr(), narrow.scales.data_ptr(), 64, *place[2:]
    )
    loan = Loan(trunk, narrow, place)
    for dtype in (torch.float32, torch.bfloat16):
        got, wanted = wide(loan, 0, 64, dtype), narrow.dense(0, 64, dtype)
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(got.nan_to_num(), wanted.nan_to_num())
