"""Weights of 8 and 4 bits: PyTorch and the native packing find the same numbers; a layer that holds them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.equality.native_cases import ensure_built, tiny_llama
from torch import Tensor, nn

from beholder.core import narrow_linear
from beholder.core.errors import ConfigError
from beholder.core.narrow import GROUPS, Narrow, dequantize, quantize, search_with
from beholder.core.narrow_linear import NarrowLinear
from beholder.generation.native import library as native
from beholder.generation.native import narrowing
from beholder.generation.native.trunk import PackedTrunk

ensure_built()


@pytest.fixture(autouse=True)
def by_pytorch():
    """Another test's model may have been opened with the native search."""
    search_with(None)


FORMS = [Narrow("int8"), *(Narrow("int4", group) for group in GROUPS)]
NAMES = [f"{form.weights}-{form.group}" for form in FORMS]
ROWS = 64


def drawn(kind: str, columns: int) -> Tensor:
    """Rows of one kind, the last of which are odd ones."""
    source = torch.Generator().manual_seed(columns)
    made = torch.randn(ROWS, columns, generator=source)
    if kind == "tails":
        made = made**3 * 0.02
    elif kind == "whole":  # many candidates are equally good, and many values equally far from zero
        made = torch.randint(-3, 4, (ROWS, columns), generator=source).float()
    elif kind == "bfloat16":
        made = made.bfloat16().float()
    elif kind == "float16":
        made = (made * 0.03).half().float()
    made[-1] = 0
    made[-2] *= 1e-34  # nothing, by all that a product could tell
    made[-3] *= 1e-28
    made[-4] *= 1e30
    made[-5, : columns // 2] = 0
    made[-6] = 0.7
    made[-7, 0], made[-7, -1] = 9.0, -9.0
    return made


def packed(weight: Tensor, form: Narrow, level: str | None = None) -> tuple[Tensor, Tensor]:
    """What the native packing makes of a matrix, in its rows' order."""
    model: Any = tiny_llama(num_hidden_layers=1, intermediate_size=weight.shape[1])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.copy_(weight)
    trunk = PackedTrunk.of(model, form.weights, group=form.group, threads=2, level=level)
    codes = torch.empty(form.code_shape(*weight.shape), dtype=form.code_dtype)
    scales = torch.empty(form.scale_shape(*weight.shape), dtype=form.scale_dtype)
    trunk.take((0, native.NARROW, 0, 1), codes, scales, 0, ROWS)
    unpacked = trunk.unpacked(0, native.NARROW, range(ROWS), weight.shape[1])
    assert torch.equal(unpacked, dequantize(codes, scales, form, weight.shape[1]))
    return codes, scales


@pytest.mark.parametrize("columns", [1, 7, 33, 50, 152, 320])
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_native_packing_finds_the_same_numbers(form, columns):
    for kind in ("normal", "tails", "whole", "bfloat16", "float16"):
        weight = drawn(kind, columns)
        codes, scales = quantize(weight, form)
        for level in native.status().levels:
            got_codes, got_scales = packed(weight, form, level)
            assert torch.equal(got_scales.view(torch.int16), scales.view(torch.int16)), (kind, level)
            assert torch.equal(got_codes, codes), (kind, level)


def test_sums_of_a_long_row_are_exact():
    """Longer than what 32 bits can add up, and all as large as can be."""
    weight = torch.ones(ROWS, 4000)
    weight[::2, ::3] = 0.983
    codes, scales = packed(weight, FORMS[0])
    wanted = quantize(weight, FORMS[0])
    assert torch.equal(codes, wanted[0])
    assert torch.equal(scales, wanted[1])


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_numbers_do_not_depend_on_how_many_rows_are_searched_at_once(form, monkeypatch):
    weight = drawn("normal", 50)
    wanted = quantize(weight, form)
    monkeypatch.setattr("beholder.core.narrow.SEARCHED_AT_ONCE", 3 * 50)
    got = quantize(weight, form)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    for one, other in zip(
        quantize(weight.bfloat16(), form), quantize(weight.bfloat16().float(), form), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_native_search_finds_them_row_by_row(form, dtype):
    weight = torch.cat([drawn("normal", 50)[:-7], drawn("tails", 50)[:-7]]).to(dtype)
    wanted = quantize(weight, form)
    for level in native.status().levels:
        codes, scales = torch.empty_like(wanted[0]), torch.empty_like(wanted[1])
        narrowing.fill(weight, form, codes, scales, level)
        assert torch.equal(codes, wanted[0])
        assert torch.equal(scales, wanted[1])
    try:
        narrowing.install()
        codes, scales = quantize(weight[:, ::2], form)  # whose rows do not lie side by side
    finally:
        search_with(None)
    wanted = quantize(weight[:, ::2], form)
    assert torch.equal(codes, wanted[0])
    assert torch.equal(scales, wanted[1])


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_it_loses_little(form):
    weight = drawn("normal", 320)[:-7]
    lost = dequantize(*quantize(weight, form), form, 320) - weight
    share = float(lost.norm() / weight.norm())
    assert 0 < share < (0.01 if form.weights == "int8" else 0.12)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_nothing_stays_nothing(form):
    codes, scales = quantize(torch.zeros(3, 20), form)
    assert torch.equal(dequantize(codes, scales, form, 20), torch.zeros(3, 20))
    assert not scales.any()
    assert torch.equal(dequantize(*quantize(drawn("normal", 20), form), form, 20)[-2], torch.zeros(20))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_no_number_is_refused(value):
    weight = torch.ones(40, 30)
    weight[7, 3] = weight[39, 0] = value
    with pytest.raises(
        ConfigError, match="2 of 1200 weights are infinite or no number, and cannot be stored in int4"
    ):
        quantize(weight, Narrow("int4"))
    with pytest.raises(
        ConfigError, match=r"a matrix of floats can be stored in int8, and this is torch.int64 of"
    ):
        quantize(torch.ones(2, 2, dtype=torch.int64), Narrow("int8"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("int3",), "weights 'int3' are no narrow form; use int8 or int4"),
        (("int4", 48), "groups of 48 weights cannot share a scale; use 32, 64, 128"),
        (("int4", "64"), "groups of 64 weights"),
    ],
)
def test_forms_that_there_are_not(settings, told):
    with pytest.raises(ConfigError, match=told):
        Narrow(*settings)


def layer(form: Narrow, *, bias: bool = True) -> tuple[nn.Linear, NarrowLinear]:
    torch.manual_seed(3)
    linear = nn.Linear(50, 37, bias=bias)
    return linear, NarrowLinear.of(linear, form)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_product_is_that_of_the_weights_it_stands_for(form, dtype, monkeypatch):
    linear, narrow = layer(form)
    twin = copy.deepcopy(linear)
    twin.weight.data = dequantize(*quantize(linear.weight, form), form, 50)
    twin, narrow = twin.to(dtype), narrow.to(dtype)
    inputs = torch.randn(2, 5, 50, dtype=dtype)
    wanted = twin(inputs)
    assert torch.equal(narrow(inputs), wanted)
    monkeypatch.setattr(narrow_linear, "BLOCK_WEIGHTS", 10 * 50)  # four blocks of rows
    torch.testing.assert_close(narrow(inputs), wanted)
    assert torch.equal(narrow.dense().to(dtype), twin.weight)
    assert (wanted - linear.to(dtype)(inputs)).norm() > 0


class Shelf:
    """Keeps what it was lent."""

    def __init__(self, narrow: NarrowLinear) -> None:
        self.codes, self.scales = (kept.clone() for kept in narrow.rows(0, narrow.out_features))
        self.narrow, self.columns = narrow.narrow, narrow.in_features

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        return self.codes[first:last].clone(), self.scales[first:last].clone()

    def widen(self, first: int, last: int, wide: Tensor) -> None:
        wide.copy_(dequantize(*self.rows(first, last), self.narrow, self.columns))


@pytest.mark.parametrize("form", FORMS[:2], ids=NAMES[:2])
def test_a_layer_that_has_lent_its_weights_is_as_good(form):
    linear, narrow = layer(form)
    inputs = torch.randn(3, 50)
    wanted, state = narrow(inputs), {name: one.clone() for name, one in narrow.state_dict().items()}
    assert narrow.narrow_bytes == narrow.codes.nbytes + narrow.scales.nbytes
    narrow.lend(Shelf(narrow))
    assert [name for name, _ in narrow.named_parameters()] == ["bias"]
    assert torch.equal(narrow(inputs), wanted)
    assert narrow.state_dict().keys() == state.keys()
    assert all(torch.equal(one, state[name]) for name, one in narrow.state_dict().items())
    for other in (copy.deepcopy(narrow), pickle.loads(pickle.dumps(narrow))):
        assert other.keeper is None
        assert torch.equal(other(inputs), wanted)
    narrow.take_back()
    assert len(list(narrow.parameters())) == 3
    assert torch.equal(narrow(inputs), wanted)
    narrow.lend(Shelf(narrow))
    other = NarrowLinear.of(nn.Linear(50, 37), form)
    narrow.load_state_dict(other.state_dict())
    assert narrow.keeper is None
    assert torch.equal(narrow(inputs), other(inputs))
    assert (narrow.out_features, narrow.in_features, narrow.shape) == (37, 50, (37, 50))
    assert f"weights={form.weights}" in repr(narrow)
    assert linear.bias is not None


@pytest.mark.parametrize("form", FORMS[:2], ids=NAMES[:2])
@pytest.mark.parametrize(
    "cast", [lambda one: one.half(), lambda one: one.double(), lambda one: one.bfloat16()]
)
def test_casting_leaves_codes_and_scales(form, cast):
    _, narrow = layer(form)
    before = narrow.dense()
    narrow.lend(Shelf(narrow))
    cast(narrow)
    assert torch.equal(narrow.dense(), before)
    assert (narrow.codes.dtype, narrow.scales.dtype) == (form.code_dtype, form.scale_dtype)
    assert narrow.bias is not None
    assert narrow.bias.dtype != torch.float32
    assert not any(parameter.requires_grad for parameter in (narrow.codes, narrow.scales))


def test_gradients_go_through_to_what_was_before_it():
    _, narrow = layer(FORMS[1])
    inputs = torch.randn(2, 50, requires_grad=True)
    narrow(inputs).sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, narrow.dense().sum(0).expand(2, 50))
