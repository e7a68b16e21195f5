"""An engine that keeps keys and values in 8 bits: in company, from the cache, in pieces and after stepping
back it says what it says alone, because a token is kept as the same bytes whoever stores it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tests.equality.engine_cases import BLOCK, LENGTH, PROMPTS, SAMPLINGS, WAYS, model, prompt, rest

from beholder.core.types import Sampling
from beholder.generation.cache import Geometry
from beholder.generation.engine import Engine

any_way = pytest.mark.parametrize("way", WAYS)
NOTHING_KEPT: dict[str, Any] = {"prefix_cache": False, "picture_memory": 0}


def engine_of(attention: str = "sdpa", /, **settings: Any) -> Engine:
    return Engine(model(attention), kv_dtype="int8", **settings)


@cache
def alone(name: str, sampling: int = 0, attention: str = "sdpa") -> tuple[int, ...]:
    """By an engine that keeps nothing, cuts nothing and runs nothing else."""
    engine = engine_of(attention, direct=False, **NOTHING_KEPT)
    return tuple(engine.stream(prompt(name), SAMPLINGS[sampling]))


def memory(blocks: int, block: int) -> int:
    return (blocks + 1) * block * Geometry.of(model(), "int8").bytes_per_token


def log_probabilities(engine: Engine, name: str) -> list[float]:
    """Of a whole greedy answer."""
    request = engine.submit(prompt(name), Sampling(max_tokens=LENGTH, logprobs=3))
    rest(request)
    return [value for score in request.scores for _, value in score.likeliest]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@any_way
def test_a_batch_is_each_alone(attention, way):
    engine = engine_of(attention, block=BLOCK, prefix_cache=False, **WAYS[way])
    requests = {
        (name, number): engine.submit(prompt(name), sampling)
        for name in PROMPTS
        for number, sampling in enumerate(SAMPLINGS)
    }
    for (name, number), request in requests.items():
        assert rest(request) == alone(name, number, attention), (name, number)


@pytest.mark.parametrize("block", [1, 3, 16])
@any_way
def test_any_block_size_and_scattered_blocks(block, way):
    engine = engine_of(block=block, kv_memory=memory(400 // block, block), prefix_cache=False, **WAYS[way])
    requests = [engine.submit(prompt(name), SAMPLINGS[0]) for name in PROMPTS]
    assert [rest(request) for request in requests] == [alone(name) for name in PROMPTS]


@any_way
def test_a_cached_beginning_is_what_is_computed_again(way):
    engine = engine_of(block=BLOCK, **WAYS[way])
    for name in PROMPTS:
        for _ in range(2):
            assert tuple(engine.stream(prompt(name), SAMPLINGS[0])) == alone(name)
    assert engine.stats().cached_tokens > 0


@any_way
def test_stepping_back_changes_nothing(way):
    names = ("cc", "other", "text")
    blocks = sum(prompt(name)["input_ids"].shape[1] for name in names[:2]) + LENGTH - 2
    engine = engine_of(block=1, kv_memory=memory(blocks, 1), **NOTHING_KEPT, **WAYS[way])
    sampling = Sampling(max_tokens=LENGTH, temperature=1.2, seed=3)
    requests = [engine.submit(prompt(name), sampling) for name in names]
    assert [rest(request) for request in requests] == [alone(name, 1) for name in names]
    assert engine.stats().preemptions > 0


def test_with_weights_in_bytes_too_it_is_exact():
    """To the last bit of every probability: whole, in pieces, from the cache, in company."""
    names = [name for name in PROMPTS if name != "multi"]  # two pictures in one pass of the tower, or in two
    wanted = {name: log_probabilities(engine_of(native="int8", **NOTHING_KEPT), name) for name in names}
    pieces = engine_of(native="int8", chunk=5, idle_chunk=5, block=BLOCK, prefix_cache=False)
    cached = engine_of(native="int8", block=BLOCK)
    for name in names:
        assert log_probabilities(pieces, name) == wanted[name], name
        assert log_probabilities(cached, name) == wanted[name], name
        assert log_probabilities(cached, name) == wanted[name], name
    assert cached.stats().cached_tokens > 0


def test_compiled_in_fixed_shapes_is_what_is_not():
    engine = engine_of(block=BLOCK, compile="eager")
    requests = [engine.submit(prompt(name), SAMPLINGS[0]) for name in PROMPTS[:3]]
    assert [rest(request) for request in requests] == [alone(name) for name in PROMPTS[:3]]


def test_it_takes_what_the_formula_says_and_is_near_the_plain_one():
    engine, plain = engine_of(native=False, block=BLOCK), Engine(model(), native=False, block=BLOCK)
    config = model().config.text_config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.head_dim + 4)
    apart = torch.tensor(log_probabilities(engine, "cc")[:3]) - torch.tensor(
        log_probabilities(plain, "cc")[:3]
    )
    assert 0 < apart.abs().max() < 0.05
    stats = engine.stats()
    assert stats.bytes_per_token == per_token < plain.stats().bytes_per_token / 2
    assert stats.bytes_held == stats.bytes_total == per_token * BLOCK * (stats.blocks + 1)
