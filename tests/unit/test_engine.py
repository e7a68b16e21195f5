"""The engine gives what `generate()` gives, stops where it must, and computes nothing unasked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.tiny_checkpoint import CONFIG, SLOTS

from beholder.core.types import Sampling
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration
from beholder.families.qh360vl.published import to_ours
from beholder.generation.engine import Engine

PLACEHOLDER = CONFIG["image_token_id"]


@pytest.fixture(scope="module")
def model() -> QH360VLForConditionalGeneration:
    torch.manual_seed(0)
    return QH360VLForConditionalGeneration(QH360VLConfig(**to_ours(CONFIG)))


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    ids = [7, 8, *[PLACEHOLDER] * SLOTS, 9, 10, 11]
    pixels = torch.randn((1, 5, 3, 28, 28), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones((1, len(ids)), dtype=torch.long),
        "pixel_values": pixels,
    }


@contextmanager
def lengths_run(model: torch.nn.Module) -> Iterator[list[int]]:
    """Over how many positions the model runs, each time."""
    lengths: list[int] = []

    def count(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        tokens = kwargs["inputs_embeds"] if "inputs_embeds" in kwargs else kwargs["input_ids"]
        lengths.append(tokens.shape[1])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    yield lengths
    handle.remove()


def generated(model: Any, inputs: dict[str, Any], length: int = 12, **settings: Any) -> list[int]:
    never = [10**6]
    row = model.generate(
        **inputs, do_sample=False, max_new_tokens=length, eos_token_id=never, pad_token_id=0, **settings
    )
    return row[0, inputs["input_ids"].shape[1] :].tolist()


def test_greedy_equals_generate(model, inputs):
    wanted = generated(model, inputs)
    assert len(set(wanted)) > 3  # a model that repeats itself would prove little
    assert list(Engine(model).stream(inputs, Sampling(max_tokens=12), ())) == wanted


def test_the_penalty_equals_generates(model, inputs):
    wanted = generated(model, inputs, length=40, repetition_penalty=3.0)
    assert wanted != generated(model, inputs, length=40)
    assert list(Engine(model).stream(inputs, Sampling(max_tokens=40, repetition_penalty=3.0), ())) == wanted


def test_text_alone(model):
    inputs = {"input_ids": torch.tensor([[7, 8, 9]])}
    assert list(Engine(model).stream(inputs, Sampling(max_tokens=12), ())) == generated(model, inputs)


def test_it_ends_with_the_terminator(model, inputs):
    plain = list(Engine(model).stream(inputs, Sampling(max_tokens=12), ()))
    cut = plain.index(plain[4])
    assert list(Engine(model).stream(inputs, Sampling(max_tokens=12), (plain[4],))) == plain[: cut + 1]


def test_one_token(model, inputs):
    assert len(list(Engine(model).stream(inputs, Sampling(max_tokens=1), ()))) == 1


def test_the_prompt_is_read_once_and_then_one_token_at_a_time(model, inputs):
    with lengths_run(model) as lengths:
        list(Engine(model).stream(inputs, Sampling(max_tokens=4), ()))
    assert lengths == [inputs["input_ids"].shape[1], 1, 1, 1]


def test_nothing_runs_ahead_and_closing_cancels(model, inputs):
    with lengths_run(model) as lengths:
        stream = Engine(model).stream(inputs, Sampling(max_tokens=50), ())
        assert lengths == []
        next(stream)
        next(stream)
        stream.close()
        assert list(stream) == []
    assert len(lengths) == 2


def test_inference_mode_does_not_leak(model, inputs):
    stream = Engine(model).stream(inputs, Sampling(max_tokens=3), ())
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()


def test_seeded_drawing_repeats(model, inputs):
    def draw(seed: int) -> list[int]:
        return list(Engine(model).stream(inputs, Sampling(max_tokens=12, temperature=1.5, seed=seed), ()))

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_requests_do_not_touch_each_other(model, inputs):
    """Two that take turns, and eight in threads, each give what they give alone."""
    engine = Engine(model)
    settings = [Sampling(max_tokens=8, temperature=1.0, seed=seed) for seed in range(8)]
    alone = [list(engine.stream(inputs, sampling, ())) for sampling in settings]
    turns = [engine.stream(inputs, sampling, ()) for sampling in settings[:2]]
    assert list(zip(*turns, strict=True)) == list(zip(*alone[:2], strict=True))
    together: dict[int, list[int]] = {}

    def run(number: int) -> None:
        together[number] = list(engine.stream(inputs, settings[number], ()))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(8)] == alone


def test_a_batch_is_refused(model):
    with pytest.raises(ValueError, match="one conversation per request, not 2 rows"):
        next(Engine(model).stream({"input_ids": torch.ones((2, 3), dtype=torch.long)}, Sampling(), ()))
