"""What an engine is told to keep to: bytes, threads, and settings that cannot be meant."""

from __future__ import annotations

import gc
import time

import pytest
import torch
from tests.equality.engine_cases import BLOCK, SAMPLINGS, alone, memory, model, prompt, rest

from beholder import ConfigError
from beholder.core.types import Sampling
from beholder.generation.engine import Engine


def test_keys_and_values_keep_to_their_bytes_and_take_what_the_formula_says():
    given = memory(40) + 7
    engine = Engine(model(), block=BLOCK, kv_memory=given)
    assert engine.stats().bytes_held == 0
    rest(engine.submit(prompt("cc"), SAMPLINGS[0]))
    stats = engine.stats()
    assert stats.bytes_held == stats.bytes_total <= given
    config = model().config.text_config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert stats.bytes_held == per_token * BLOCK * (stats.blocks + 1)


def test_native_steps_tell_how_long_they_took():
    """The forward of rows that answer is in there, so what a step costs beside it is known."""
    engine, other = Engine(model(), block=BLOCK, native=True), Engine(model(), block=BLOCK, native=False)
    first = engine.submit(prompt("cc"), SAMPLINGS[0])
    while not first.ids:  # the prompt is PyTorch's to read
        engine.step()
    read, begun = engine.stats().native_seconds, time.perf_counter()
    rest(first)
    assert 0 < engine.stats().native_seconds - read < time.perf_counter() - begun
    rest(other.submit(prompt("cc"), SAMPLINGS[0]))
    assert other.stats().native_seconds == 0


def test_a_step_keeps_to_its_threads_and_leaves_others_theirs():
    answers = alone("cc"), alone("text")  # by other engines on the same model
    before, seen = torch.get_num_threads(), []
    wanted = 2 if before == 1 else 1
    try:
        engine = Engine(model(), block=BLOCK, threads=wanted)
    except ConfigError:
        pytest.skip("this process may use one core alone")
    handle = model().register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        first = rest(engine.submit(prompt("cc"), SAMPLINGS[0]))
        engine.start()
        assert (first, rest(engine.submit(prompt("text"), SAMPLINGS[0]))) == answers
        engine.close()
    finally:
        handle.remove()
    assert set(seen) == {wanted}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"threads": 0}, "threads is 0; this process may use 1 to"),
        ({"threads": 100_000}, "threads is 100000; this process may use 1 to"),
        ({"kv_memory": 0}, "kv_memory 0.*leave nothing to run with"),
        ({"chunk": 0}, "chunk 0.*leave nothing to run with"),
        ({"picture_memory": -1}, "picture_memory -1.*are numbers of bytes"),
        ({"packed_memory": -1}, "packed_memory -1 are numbers of bytes"),
    ],
)
def test_settings_that_cannot_work(setting, said):
    with pytest.raises(ConfigError, match=said):
        Engine(model(), **setting)


def test_objects_do_not_become_more_with_requests():
    engine = Engine(model(), block=BLOCK, kv_memory=memory(40), picture_memory=10**4)

    def objects_after(count: int) -> int:
        for number in range(count):
            rest(engine.submit(prompt(("text", "cc", "other")[number % 3]), Sampling(max_tokens=2)))
        engine.step()
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(60)
    assert objects_after(120) < before + 60
    assert not engine._steps.jobs
