"""What goes wrong for one request ends that one, says why, and leaves its neighbours alone."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence

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
    neighbours_are_well(engine, engine.submit(broken, GREEDY), InputError, "scores are not numbers")
    again = engine.submit(broken, Sampling(max_tokens=3, temperature=1.0))
    with pytest.raises(InputError, match="scores are not numbers"):
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


def test_out_of_memory_while_a_prompt_is_read(engine, monkeypatch: pytest.MonkeyPatch):
    """Also then the newest goes, though an older one was read; and what the failed step held is let go."""
    held: list[weakref.ref[torch.Tensor]] = []
    read, failures = engine._steps.runner.read, [RuntimeError("DefaultCPUAllocator: can't allocate memory")]

    def full(*given, **named):
        if failures:
            large = torch.zeros(1000)
            held.append(weakref.ref(large))
            raise failures.pop()
        return read(*given, **named)

    monkeypatch.setattr(engine._steps.runner, "read", full)
    old, new = engine.submit(prompt("cc"), GREEDY), engine.submit(prompt("text"), GREEDY)
    late = engine.submit(prompt("turn2"), GREEDY)  # waits, for it begins like the first
    assert rest(old) == alone("cc")
    with pytest.raises(CapacityError, match="memory ran out with 2 requests running, and this one came last"):
        rest(new)
    assert held[0]() is None
    assert rest(late) == alone("turn2")
    assert engine.stats().blocks_used == 0


def test_no_room_for_keys_and_values_ends_nobody_else(engine, monkeypatch: pytest.MonkeyPatch):
    """Half of a layer's memory is none: the next request starts over."""
    store, failing = engine._steps.runner.store, [False, False, False, True]
    taking = store._memory

    def full(like):
        if failing and failing.pop(0):
            raise MemoryError
        return taking(like)

    monkeypatch.setattr(store, "_memory", full)
    with pytest.raises(CapacityError, match="memory ran out with 1 requests running"):
        rest(engine.submit(prompt("text"), GREEDY))
    assert rest(engine.submit(prompt("text"), GREEDY)) == alone("text")


def test_an_interrupted_step_is_run_again(engine):
    """Ctrl-C while tokens are chosen: whoever got none yet gets it with the next step."""
    interrupts = [KeyboardInterrupt()]

    def mask(said: Sequence[int]) -> None:
        if len(said) == 2 and interrupts:
            raise interrupts.pop()

    before = engine.submit(prompt("text"), GREEDY)
    asked = engine.submit(prompt("other"), SAMPLINGS[1], mask=mask)
    after = engine.submit(prompt("cc"), GREEDY)
    with pytest.raises(KeyboardInterrupt):
        rest(asked)
    assert [rest(one) for one in (before, asked, after)] == [alone("text"), alone("other", 1), alone("cc")]
    engine = Engine(model(), block=BLOCK)
    interrupts.append(KeyboardInterrupt())

    def first(said: Sequence[int]) -> None:
        if interrupts:
            raise interrupts.pop()

    asked = engine.submit(prompt("cc"), GREEDY, mask=first)
    with pytest.raises(KeyboardInterrupt):
        rest(asked)
    assert rest(asked) == alone("cc")


def test_a_seed_that_is_no_seed(engine):
    with pytest.raises(InputError, match=r"seed is 18446744073709551616; it must fit 64 bits"):
        engine.submit(prompt("text"), Sampling(temperature=1.0, seed=2**64))
    assert len(rest(engine.submit(prompt("text"), Sampling(max_tokens=2, temperature=1.0, seed=-5)))) == 2


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


@pytest.mark.parametrize("broken", [("plan",), ("plan", "remove"), ("plan", "add", "remove")])
def test_the_death_of_the_thread_reaches_everybody(engine, broken, monkeypatch: pytest.MonkeyPatch):
    """Also where the bookkeeping that is broken cannot take them out."""

    def dying(*_):
        raise SystemError("broken bookkeeping")

    for name in broken:
        monkeypatch.setattr(engine._steps.scheduler, name, dying)
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


def test_who_comes_while_the_thread_dies_is_told_too(engine, monkeypatch: pytest.MonkeyPatch):
    class Slow(deque):
        """Lets the thread die between the look whether it lives and the request's arrival."""

        def append(self, job) -> None:
            dead.set()
            until = time.monotonic() + 0.3
            while engine._closed is None and time.monotonic() < until:
                time.sleep(0.01)
            super().append(job)

    stepping, dead = threading.Event(), threading.Event()

    def dying():
        stepping.set()
        dead.wait()
        raise SystemError("broken bookkeeping")

    first = engine.submit(prompt("text"), GREEDY)
    monkeypatch.setattr(engine._steps.scheduler, "plan", dying)
    monkeypatch.setattr(engine._steps, "arrivals", Slow(engine._steps.arrivals))
    engine.start()
    assert stepping.wait(timeout=30)
    late = engine.submit(prompt("cc"), GREEDY)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            next(late)
        except SystemError as error:
            told.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(timeout=10)
    assert [str(error) for error in told] == ["broken bookkeeping"]
    assert isinstance(first.error, SystemError)


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
