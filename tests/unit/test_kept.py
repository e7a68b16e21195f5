"""Keys and values in whole numbers of 8 bits: what a token becomes depends on nothing but the token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.equality.native_cases import tiny_llama
from torch import Tensor

from beholder.core.errors import ConfigError
from beholder.families.other.engine import GenerateEngine
from beholder.generation.cache import Geometry, Store
from beholder.generation.engine import Engine
from beholder.generation.kept import MOST, SMALLEST, Kept, from_bytes, to_bytes
from beholder.generation.native.memory import KeyValues

H, N, D = 2, 24, 10


def drawn(tokens: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    """(H, T, D), of every size."""
    made = torch.randn(H, tokens, D, generator=torch.Generator().manual_seed(tokens))
    return (made * 10.0 ** torch.arange(-4, tokens - 4)[None, :, None]).to(dtype)


def memory(dtype: torch.dtype = torch.float32) -> Kept:
    return Kept.like(torch.empty(1, H, 1, D, dtype=dtype), (H, N, D), 3, in_bytes=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_token_loses_at_most_half_a_step(dtype):
    wide = drawn(6, dtype)
    codes, scales = to_bytes(wide)
    assert (codes.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (H, 6))
    assert torch.equal(codes.abs().amax(-1), torch.full((H, 6), MOST, dtype=torch.int8))
    lost = (from_bytes(codes, scales, torch.float32) - wide.float()).abs()
    assert (lost <= 0.5001 * scales[..., None]).all()
    assert lost.any()


def test_whole_numbers_are_kept_and_halves_go_to_the_even_one():
    wide = torch.tensor([[127.0, -127, 3, 0.5, 1.5, 2.5, -0.5, -1.5, 0, 100]])
    codes, scales = to_bytes(wide)
    assert codes.tolist() == [[127, -127, 3, 0, 2, 2, 0, -2, 0, 100]]
    assert scales.tolist() == [1.0]


def test_nothing_and_next_to_nothing_are_nothing():
    wide = torch.zeros(3, D)
    wide[1] = SMALLEST / 2
    wide[2, 4] = -SMALLEST
    codes, scales = to_bytes(wide)
    assert codes.any(-1).tolist() == [False, False, True]
    assert torch.equal(scales, torch.tensor([0.0, 0.0, SMALLEST]) / torch.tensor(127.0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_makes_its_token_none_and_no_other(value):
    wide = drawn()
    wide[1, 3, 4] = value
    codes, scales = to_bytes(wide)
    back = from_bytes(codes, scales, torch.float32)
    assert back[1, 3].isnan().all()
    back[1, 3] = 0
    assert back.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_however_it_is_stored_it_is_stored_as_the_same(dtype):
    """Together, one by one, at places in a row or here and there, among other tokens."""
    wide = drawn(8, dtype)
    together, apart, scattered = memory(dtype), memory(dtype), memory(dtype)
    together.write((4, 12), wide)
    for token in range(8):
        apart.write((4 + token, 5 + token), wide[:, token : token + 1])
    order = torch.tensor([5, 0, 7, 3, 6, 1, 4, 2])
    scattered.write(order + 4, wide[:, order])
    for other in (apart, scattered):
        for one, two in zip(together.tensors, other.tensors, strict=True):
            assert torch.equal(one[:, 4:12], two[:, 4:12])
    assert together.run(4, 12).dtype == dtype
    assert torch.equal(together.run(4, 12), together.gathered(torch.arange(4, 12)))
    assert torch.equal(together.gathered(order + 4), together.run(4, 12)[:, order])
    assert not together.run(0, 3).any()  # the null block, which is read


def test_plain_memory_is_read_where_it_stands():
    kept = Kept.like(torch.empty(1, H, 1, D), (H, N, D), 3, in_bytes=False)
    kept.write((4, 12), drawn())
    assert kept.scales is None
    assert kept.run(4, 12).data_ptr() == kept.numbers[:, 4:].data_ptr()
    assert torch.equal(kept.run(4, 12), drawn())


def test_bytes_per_token_are_what_is_taken():
    model: Any = tiny_llama()
    plain, narrow = Geometry.of(model), Geometry.of(model, "int8")
    assert plain.bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert narrow.bytes_per_token == 2 * 2 * 2 * (16 + 4)
    store = Store(narrow, N, 4, torch.device("cpu"))
    assert store.bytes == 0
    keys, values = store.whole()
    assert len(keys) == len(values) == 2
    assert store.bytes == N * narrow.bytes_per_token
    engine = Engine(model, kv_dtype="int8", kv_memory=100 * 16 * narrow.bytes_per_token)
    stats = engine.stats()
    assert (stats.blocks, stats.bytes_per_token) == (99, narrow.bytes_per_token)
    engine.close()


@pytest.mark.parametrize("name", ["int4", "fp8", "float32", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=f"kv_dtype is '{name}'; keys and values are kept in int8 or,"):
        Engine(tiny_llama(), kv_dtype=name)


def test_native_memory_wants_a_scale_for_each_token():
    codes, scales = torch.zeros(H, N, D, dtype=torch.int8), torch.zeros(H, N)
    assert KeyValues([(codes, codes)] * 2, [(scales, scales)] * 2).stored == 2
    with pytest.raises(
        ConfigError, match=r"2 layers of torch.int8 keys and values come with scales of 0; int8"
    ):
        KeyValues([(codes, codes)] * 2)
    with pytest.raises(ConfigError, match=r"1 layers of torch.float32 .* with scales of 1"):
        KeyValues([(codes.float(), codes.float())], [(scales, scales)])
    for wrong in (scales[:, 1:], scales.double(), torch.zeros(N, H).T):
        with pytest.raises(
            ConfigError, match=r"scales of layer 0 are .* must be contiguous float32 of \(2, 24\)"
        ):
            KeyValues([(codes, codes)], [(scales, wrong)])


def test_where_a_model_keeps_them_itself_they_stay_as_they_are():
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM runs by its own generate.*leave kv_dtype out"):
        GenerateEngine(tiny_llama(), kv_dtype="int8")
