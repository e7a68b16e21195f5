"""What weights become when they are packed, and what that takes."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.equality.native_cases import ensure_built, tiny_llama

from beholder.core.errors import ConfigError
from beholder.generation.native import library as native
from beholder.generation.native.formats import FORMATS, Packing, plan
from beholder.generation.native.parts import parts_of
from beholder.generation.native.trunk import PackedTrunk

ensure_built()
INNER, HIDDEN = 152, 64


def packed_down(
    weight: torch.Tensor, weights: str, level: str | None = None, group: int = 32
) -> torch.Tensor:
    """A matrix (64, 152) through the first layer's last linear and back."""
    model = tiny_llama(num_hidden_layers=1)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.copy_(weight)
    trunk = PackedTrunk.of(model, weights, group=group, threads=2, level=level)
    return trunk.unpacked(0, native.NARROW, range(HIDDEN), INNER)


def matrix() -> torch.Tensor:
    return torch.randn(HIDDEN, INNER, generator=torch.Generator().manual_seed(2))


def test_dense_formats_keep_the_numbers():
    assert torch.equal(packed_down(matrix(), "float32"), matrix())
    assert torch.equal(packed_down(matrix(), "bfloat16"), matrix().bfloat16().float())


def test_bytes_lose_less_than_plain_rounding():
    got = packed_down(matrix(), "int8")
    scales = matrix().abs().amax(1, keepdim=True) / 127
    plain = (matrix() / scales).round() * scales
    error, most = (got - matrix()).pow(2).sum(1), (plain - matrix()).pow(2).sum(1)
    assert (error <= most * 1.0001).all()
    wholes = (got / got.abs().amax(1, keepdim=True) * 127).round()
    assert len(wholes[0].unique()) > 50


@pytest.mark.parametrize("group", [32, 64, 128])
def test_half_bytes_lose_less_than_plain_rounding(group):
    """The last group is a short one: 152 is no multiple of any."""
    got = packed_down(matrix(), "int4", group=group)
    for first in range(0, INNER, group):
        piece, found = matrix()[:, first : first + group], got[:, first : first + group]
        scales = (piece.abs().amax(1, keepdim=True) / 7).bfloat16().float()
        plain = (piece / scales).round().clamp(-8, 7) * scales
        error, most = (found - piece).pow(2).sum(1), (plain - piece).pow(2).sum(1)
        assert (error <= most).all()
        assert error.sum() < 0.9 * most.sum()
        assert max(len(row.unique()) for row in found) <= 16


def test_half_bytes_that_fit_are_kept():
    """Whole numbers from -8 to 7 times one number of bfloat16."""
    wholes = torch.randint(-8, 8, (HIDDEN, INNER), generator=torch.Generator().manual_seed(4)).float()
    wholes[:, ::32] = -8  # each group says its scale
    assert torch.equal(packed_down(wholes * 0.25, "int4"), wholes * 0.25)


def test_nothing_becomes_nothing():
    for weights in FORMATS:
        assert torch.equal(packed_down(torch.zeros(HIDDEN, INNER), weights), torch.zeros(HIDDEN, INNER))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_level_packs_alike(weights):
    """Sums of the search are of whole numbers, which are the same in any order."""
    found = [packed_down(matrix(), weights, level) for level in native.status().levels]
    for other in found[1:]:
        assert torch.equal(found[0], other)


def test_bfloat16_weights_are_read_as_they_are():
    model = tiny_llama(dtype=torch.bfloat16)
    trunk = PackedTrunk.of(model, "float32", threads=1)
    stored = model.model.layers[1].self_attn.q_proj.weight.float()
    assert torch.equal(trunk.unpacked(1, native.ENTER, range(64), 64), stored)


@pytest.mark.parametrize("weights", FORMATS)
def test_the_plan_is_what_is_taken(weights, caplog):
    model = tiny_llama(vocab_size=45, hidden_size=40, intermediate_size=50)
    with caplog.at_level(logging.INFO, "beholder"):
        trunk = PackedTrunk.of(model, weights, threads=1)
    told = plan(parts_of(model), Packing(weights))
    assert told.packed == trunk.packed_bytes
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert told.dense == sum(m.weight.nbytes for m in linears)
    assert told.peak == told.dense + told.packed
    assert str(told) in caplog.text


def test_the_head_of_int4_is_int8_unless_told():
    assert Packing("int4").head_format == "int8"
    assert Packing("int4", head="int4").head_format == "int4"
    assert Packing("bfloat16").head_format == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weights": "int3"}, "weights 'int3' cannot be packed; use float32, bfloat16, int8, int4"),
        ({"weights": "int4", "head": "bf16"}, "weights 'bf16' cannot be packed"),
        ({"weights": "int4", "group": 48}, "groups of 48 weights cannot be packed; use (32, 64, 128)"),
    ],
)
def test_unknown_packings_are_refused(settings, told):
    with pytest.raises(ConfigError) as caught:
        Packing(**settings)
    assert told in str(caught.value)
