"""Every fast way to run a request gives the ids and scores of the slow way."""

from __future__ import annotations

import pytest
import torch
from tests.equality.engine_cases import (
    BLOCK,
    LENGTH,
    PROMPTS,
    SAMPLINGS,
    WAYS,
    alone,
    memory,
    model,
    prompt,
    rest,
)

from beholder.core.types import Sampling
from beholder.generation.engine import Engine

either = pytest.mark.parametrize("native", [True, False], ids=["native", "pytorch"])
any_way = pytest.mark.parametrize("way", WAYS)


@pytest.mark.parametrize("name", PROMPTS)
def test_alone_is_what_generate_gives(name):
    inputs = prompt(name)
    row = model().generate(
        **inputs, do_sample=False, max_new_tokens=LENGTH, eos_token_id=[10**6], pad_token_id=0
    )
    assert tuple(row[0, inputs["input_ids"].shape[1] :].tolist()) == alone(name)


@pytest.mark.parametrize(("attention", "native"), [("sdpa", True), ("sdpa", False), ("eager", False)])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 11, 16, 1000])
def test_any_chunk_size(attention, native, chunk):
    """A picture is cut across pieces, down to one token at a time."""
    setting = {"block": BLOCK, "prefix_cache": False, "native": native}
    engine = Engine(model(attention), chunk=chunk, idle_chunk=chunk, **setting)
    for name in PROMPTS:
        assert tuple(engine.stream(prompt(name), SAMPLINGS[0])) == alone(name, attention=attention)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@any_way
def test_a_batch_is_each_alone(attention, way):
    engine = Engine(model(attention), block=BLOCK, prefix_cache=False, **WAYS[way])
    requests = {
        (name, number): engine.submit(prompt(name), sampling)
        for name in PROMPTS
        for number, sampling in enumerate(SAMPLINGS)
    }
    for (name, number), request in requests.items():
        assert rest(request) == alone(name, number, attention), (name, number)
    assert engine.stats().preemptions == 0
    assert engine.stats().steps <= LENGTH + 2


@pytest.mark.parametrize("block", [1, 2, 3, 16, 64])
@any_way
def test_any_block_size_and_scattered_blocks(block, way):
    """Neighbours that grow by turns get blocks between each other's; what is read is the same."""
    setting = {"kv_memory": memory(400 // block, block), **WAYS[way]}
    engine = Engine(model(), block=block, prefix_cache=False, **setting)
    requests = [engine.submit(prompt(name), SAMPLINGS[0]) for name in PROMPTS]
    assert [rest(request) for request in requests] == [alone(name) for name in PROMPTS]


def scores_of(engine: Engine, name: str) -> list[float]:
    """Log-probabilities of a whole greedy answer."""
    request = engine.submit(prompt(name), Sampling(max_tokens=LENGTH, logprobs=3))
    assert rest(request) == alone(name)
    return [value for score in request.scores for _, value in score.likeliest]


@either
def test_a_cached_beginning_is_what_is_computed_again(native):
    engine = Engine(model(), block=BLOCK, native=native)
    for name in PROMPTS:
        first = scores_of(engine, name)
        before = engine.stats()
        again = scores_of(engine, name)
        after = engine.stats()
        length = prompt(name)["input_ids"].shape[1]
        assert after.prompt_tokens - before.prompt_tokens == length - (length - 1) // BLOCK * BLOCK
        assert after.pictures_run == before.pictures_run
        torch.testing.assert_close(torch.tensor(again), torch.tensor(first), rtol=0, atol=2e-5)


def test_the_same_ids_with_another_picture_are_another_prompt():
    engine = Engine(model(), block=BLOCK)
    shown = prompt("cc")
    other = {**shown, "pixel_values": shown["pixel_values"].flip(-1)}
    wanted = tuple(Engine(model(), prefix_cache=False, picture_memory=0).stream(other, SAMPLINGS[0]))
    assert tuple(engine.stream(shown, SAMPLINGS[0])) == alone("cc")
    assert tuple(engine.stream(other, SAMPLINGS[0])) == wanted
    assert engine.stats().pictures_run == 2


def test_features_are_kept_without_the_prefix():
    engine = Engine(model(), block=BLOCK, prefix_cache=False)
    for _ in range(2):
        for name in PROMPTS:
            assert tuple(engine.stream(prompt(name), SAMPLINGS[0])) == alone(name)
    stats = engine.stats()
    assert stats.cached_tokens == 0
    assert stats.pictures_run == 2  # two pictures there are
    assert stats.picture_hits > 0
    assert stats.picture_bytes > 0


def test_nothing_is_kept_where_both_are_off():
    engine = Engine(model(), block=BLOCK, prefix_cache=False, picture_memory=0)
    for _ in range(2):
        assert tuple(engine.stream(prompt("cc"), SAMPLINGS[0])) == alone("cc")
    stats = engine.stats()
    assert (stats.pictures_run, stats.cached_tokens, stats.picture_bytes, stats.blocks_reusable) == (
        2,
        0,
        0,
        0,
    )


@pytest.mark.parametrize("prefix_cache", [True, False])
@any_way
def test_stepping_back_changes_nothing(prefix_cache, way):
    """There is room for both pictures' prompts but not for both answers."""
    names = ("cc", "other", "text")
    blocks = sum(prompt(name)["input_ids"].shape[1] for name in names[:2]) + LENGTH - 2
    setting = {"kv_memory": memory(blocks, block=1), "prefix_cache": prefix_cache, **WAYS[way]}
    engine = Engine(model(), block=1, picture_memory=0, **setting)
    sampling = Sampling(max_tokens=LENGTH, temperature=1.2, seed=3)
    requests = [engine.submit(prompt(name), sampling) for name in names]
    assert [rest(request) for request in requests] == [alone(name, 1) for name in names]
    if not prefix_cache:  # with it the two share their beginning, and fit
        assert engine.stats().preemptions > 0
    assert engine.stats().blocks_used == 0


@either
def test_seeds_do_not_depend_on_the_neighbours(native):
    engine = Engine(model(), block=BLOCK, native=native)
    seeds = [Sampling(max_tokens=LENGTH, temperature=1.5, seed=seed) for seed in range(6)]
    together = [rest(request) for request in [engine.submit(prompt("cc"), one) for one in seeds]]
    apart = [
        tuple(Engine(model(), block=BLOCK, native=native).stream(prompt("cc"), one))
        for one in reversed(seeds)
    ]
    assert together == apart[::-1]
    assert len(set(together)) > 1
