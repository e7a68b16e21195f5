"""What goes wrong for one request ends that one, says why, and leaves its neighbours alone."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.equality.engine_cases import BLOCK, SAMPLINGS, alone, memory, model, prompt, rest

from beholder import CapacityError, ConfigError, InputError
from beholder.core.types import Sampling
from beholder.generation.engine import Engine

GREEDY = SAMPLINGS[0]


@pytest.fixture
def engine() -> Engine:
    return Engine(model(), block=BLOCK)


def neighbours_are_well(engine: Engine, failing, error: type[Exception], match: str) -> None:
    """The request fails with this error between two others that do not notice."""
    before, after = engine.submit(prompt("text"), GREEDY), engine.submit(prompt("cc"), GREEDY)
    with pytest.raises(error, match=match):
        rest(failing)
    with pytest.raises(error, match=match):
        next(failing)
    assert rest(before) == alone("text")
    assert rest(after) == alone("cc")
    assert engine.stats().failed == 1
    assert engine.stats().blocks_used == 0


def test_pictures_that_are_not_numbers(engine):
    inputs = prompt("cc")
    broken = {**inputs, "pixel_values": torch.full_like(inputs["pixel_values"], torch.nan)}
    neighbours_are_well(engine, engine.submit(broken, GREEDY), ValueError, "scores are not numbers")
    again = engine.submit(broken, Sampling(max_tokens=3, temperature=1.0))
    with pytest.raises(ValueError, match="scores are not numbers"):
        rest(again)


def test_pictures_of_a_wrong_shape(engine):
    inputs = prompt("cc")
    broken = {**inputs, "pixel_values": inputs["pixel_values"][..., :-1]}
    neighbours_are_well(engine, engine.submit(broken, GREEDY), InputError, "pixel_values has shape")


def test_places_and_pictures_that_disagree(engine):
    inputs = prompt("cc")
    with pytest.raises(InputError, match=r"reserves \d+ picture positions and the pictures give 0"):
        engine.submit({"input_ids": inputs["input_ids"]}, GREEDY)
    fewer = {**inputs, "input_ids": inputs["input_ids"][:, 3:], "attention_mask": None}
    slots = int((fewer["input_ids"] == model().config.image_token_id).sum())
    fewer["input_ids"] = torch.cat(
        [fewer["input_ids"], torch.full((1, 1), model().config.image_token_id)], dim=1
    )
    failing = engine.submit(fewer, GREEDY)
    neighbours_are_well(
        engine, failing, InputError, rf"reserves {slots + 1} picture positions.* give {slots}"
    )


def test_a_mask_that_raises(engine):
    def grammar(said):
        if len(said) == 2:
            raise LookupError("no such rule")
        return None

    failing = engine.submit(prompt("other"), GREEDY, mask=grammar)
    neighbours_are_well(engine, failing, LookupError, "no such rule")
    assert tuple(failing.ids) == alone("other")[:2]


def test_a_mask_that_allows_nothing(engine):
    vocabulary = model().config.text_config.vocab_size
    failing = engine.submit(prompt("text"), GREEDY, mask=lambda _: torch.zeros(vocabulary, dtype=torch.bool))
    neighbours_are_well(engine, failing, InputError, "allows 0 of")


def test_a_bias_for_an_unknown_token(engine):
    failing = engine.submit(prompt("text"), Sampling(logit_bias={10**7: 1.0}))
    neighbours_are_well(engine, failing, InputError, "logit_bias names token 10000000; the largest is")


def test_a_failure_of_all_together_is_traced_to_one(engine, monkeypatch: pytest.MonkeyPatch):
    """Where a forward over several fails, each is run alone."""
    good = [engine.submit(prompt("text"), GREEDY), engine.submit(prompt("cc"), GREEDY)]
    bad = engine.submit(prompt("other"), GREEDY)
    first = next(bad)
    answer = engine._steps.runner.answer

    def failing(prompts, tables):
        if any(one.length == len(one.ids) - 1 and one.ids[-1] == first and one.pictures for one in prompts):
            raise RuntimeError("broken row")
        return answer(prompts, tables)

    monkeypatch.setattr(engine._steps.runner, "answer", failing)
    with pytest.raises(RuntimeError, match="broken row"):
        rest(bad)
    assert rest(good[0]) == alone("text")


def test_out_of_memory_sheds_the_newest(engine, monkeypatch: pytest.MonkeyPatch):
    old, new = engine.submit(prompt("cc"), GREEDY), engine.submit(prompt("text"), GREEDY)
    next(old)
    next(new)
    answer, failures = engine._steps.runner.answer, [torch.OutOfMemoryError("CUDA out of memory")]

    def full(prompts, tables):
        if failures:
            raise failures.pop()
        return answer(prompts, tables)

    monkeypatch.setattr(engine._steps.runner, "answer", full)
    assert rest(old) == alone("cc")
    with pytest.raises(CapacityError, match="memory ran out with 2 requests running"):
        rest(new)
    assert isinstance(new.error.__cause__, torch.OutOfMemoryError)


def test_a_request_that_never_fits():
    small = Engine(model(), block=BLOCK, kv_memory=memory(3))
    with pytest.raises(CapacityError, match=r"for \d+ tokens and there is room for 12"):
        small.submit(prompt("text"), Sampling(max_tokens=100))
    with pytest.raises(ConfigError, match=r"kv_memory 10.*leave nothing"):
        Engine(model(), kv_memory=10)


def test_rows_that_cannot_be_run(engine):
    ids = prompt("text")["input_ids"]
    with pytest.raises(ValueError, match="attention_mask must be all ones"):
        engine.submit({"input_ids": ids, "attention_mask": torch.zeros_like(ids)}, GREEDY)
    with pytest.raises(InputError, match="no tokens"):
        engine.submit({"input_ids": ids[:, :0]}, GREEDY)


def test_closing_ends_everything(engine):
    running, waiting = engine.submit(prompt("cc"), GREEDY), engine.submit(prompt("text"), GREEDY)
    first = next(running)
    engine.start()
    engine.close()
    engine.close()
    assert running.ids[0] == first
    assert {running.finish_reason, waiting.finish_reason} <= {"cancelled", "length"}
    rest(waiting)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit(prompt("text"), GREEDY)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.start()


def test_the_death_of_the_thread_reaches_everybody(engine, monkeypatch: pytest.MonkeyPatch):
    def dying():
        raise SystemError("broken bookkeeping")

    monkeypatch.setattr(engine._steps.scheduler, "plan", dying)
    requests = [engine.submit(prompt(name), GREEDY) for name in ("cc", "text", "other")]
    told: list[str] = []

    def wait(request) -> None:
        try:
            next(request)
        except SystemError as error:
            told.append(str(error))

    threads = [threading.Thread(target=wait, args=(request,)) for request in requests[1:]]
    engine.start()
    for thread in threads:
        thread.start()
    wait(requests[0])
    for thread in threads:
        thread.join(timeout=30)
    assert told == ["broken bookkeeping"] * 3
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit(prompt("text"), GREEDY)


def test_a_thread_answers_many_at_once(engine):
    engine.start()
    engine.start()
    names = ("cc", "text", "other", "multi", "turn2") * 2
    answers: dict[int, tuple[int, ...]] = {}

    def ask(number: int) -> None:
        answers[number] = rest(engine.submit(prompt(names[number]), GREEDY))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    engine.close()
    assert [answers[number] for number in range(len(names))] == [alone(name) for name in names]


def test_many_requests_leave_nothing_behind(engine):
    small = Engine(model(), block=BLOCK, kv_memory=memory(30))
    for number in range(60):
        request = small.submit(prompt(("text", "cc")[number % 2]), Sampling(max_tokens=3))
        next(request)
        request.close() if number % 3 else rest(request)
    small.step()
    stats = small.stats()
    assert stats.blocks_used + stats.blocks_reusable <= stats.blocks == 30
    assert (stats.blocks_used, stats.running, stats.waiting, len(small._steps.jobs)) == (0, 0, 0, 0)
    config = model().config.text_config
    per_layer = 2 * config.num_key_value_heads * config.head_dim * 4
    assert stats.bytes_per_token == config.num_hidden_layers * per_layer
