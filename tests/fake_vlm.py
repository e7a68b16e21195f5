"""A model that says what the test wants, with the face of `VLM` that the server uses."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from beholder.core.errors import CapacityError, InputError
from beholder.core.types import Answer, Box, FinishReason, Message, Sampling, Timings, TokenScore, Usage

WORDS = ("A ", "red ", "star ", "in 图 ", "the ", "sky")


class FakeTokenizer:
    """A token for each letter."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def get_vocab(self) -> dict[str, int]:
        return {"a": 97}


class FakeProcessor:
    """The settings that are described."""

    tokenizer = FakeTokenizer()
    template = SimpleNamespace()
    image_token_id = 0
    template_names = ("plain", "loud")
    slots_per_picture = 3
    image_processor = SimpleNamespace(image_mean=(0.5, 0.5, 0.5), image_std=(0.25, 0.25, 0.25))

    def __init__(self, template_name: str = "plain") -> None:
        self.template_name = template_name

    def with_template(self, name: str) -> FakeProcessor:
        return FakeProcessor(name)

    def encode(self, messages: Sequence[Message]) -> dict[str, Any]:
        pictures = sum(len(message.pictures) for message in messages)
        text = "".join(message.text for message in messages)
        said = text.upper() if self.template_name == "loud" else text
        ids = [0] * (3 * pictures) + [ord(letter) for letter in said]
        told: dict[str, Any] = {"input_ids": torch.tensor([ids])}
        if pictures:
            told["pixel_values"] = torch.full((pictures, 2, 3, 4, 5), 2.0)
        return told

    def to_dict(self) -> dict[str, Any]:
        return {"size": 28}


class FakeStream(Iterator[str]):
    """The pieces of one answer. The question's first word may ask for something special."""

    def __init__(self, vlm: FakeVLM, question: str, sampling: Sampling, pictures: int) -> None:
        self.vlm, self.sampling, self.pictures = vlm, sampling, pictures
        self.what = question.split()[0] if question.split() else ""
        self.said: list[str] = []
        self.pauses: list[float | None] = []
        self.reason: FinishReason | None = None
        self.cancelled = threading.Event()
        if self.what == "refuse":
            raise InputError("this question is refused")
        if self.what == "full":
            raise CapacityError("no room now")
        vlm.open += 1

    def __next__(self) -> str:
        if self.reason is not None:
            raise StopIteration
        vlm = self.vlm
        if self.what == "wait":
            self.cancelled.wait(vlm.patience)
        if self.what == "slow":
            time.sleep(0.02)
        if self.what == "late" and not self.said:
            time.sleep(0.3)
        if self.what == "broken" or (self.what == "breaks" and len(self.said) == 2):
            raise RuntimeError("a secret of the user")
        if self.cancelled.is_set():
            self.reason = "cancelled"
            raise StopIteration
        words = WORDS * 100 if self.what == "slow" else WORDS
        if len(self.said) == len(words):
            self.reason = "stop"
            raise StopIteration
        if len(self.said) == self.sampling.max_tokens:
            self.reason = "length"
            raise StopIteration
        self.said.append(words[len(self.said)])
        vlm.steps += 1
        return self.said[-1]

    def gather(self, seconds: float | None) -> str | None:
        """A piece each time."""
        self.pauses.append(seconds)
        return next(self, None)

    @property
    def is_over(self) -> bool:
        return self.reason is not None

    @property
    def scores(self) -> tuple[TokenScore, ...]:
        if self.sampling.logprobs is None:
            return ()
        likeliest = ((65, -0.5), (66, -float("inf")))[: self.sampling.logprobs]
        return tuple(TokenScore(ord(word[0]), -0.5, likeliest) for word in self.said)

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        if self in self.vlm.closed:
            return
        self.vlm.closed.append(self)
        self.vlm.open -= 1

    @property
    def answer(self) -> Answer:
        boxes = (Box(10, 5, 20, 15, self.pictures - 1),) if self.pictures else ()
        usage = Usage(7 + 3 * self.pictures, 3 * self.pictures, len(self.said), 2)
        assert self.reason is not None
        timings = Timings(0.001, 0.002, 0.01)
        return Answer("".join(self.said), self.reason, usage, timings, boxes, self.scores)


class FakeVLM:
    """Counts what it does."""

    context = 100
    patience = 5.0

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Sampling]] = []
        self.closed: list[FakeStream] = []
        self.open = self.steps = 0
        self.processor = FakeProcessor()
        self.family = SimpleNamespace(name="fake")
        self.model = SimpleNamespace(dtype=torch.float32, device="cpu")
        self.engine = SimpleNamespace(start=lambda: None)

    def with_template(self, name: str) -> FakeVLM:
        other = copy.copy(self)
        other.processor = self.processor.with_template(name)
        return other

    def submit(self, messages: Sequence[Message], *, mask: Any = None, **sampling: Any) -> FakeStream:
        chosen = Sampling.of(sampling)
        self.asked.append((tuple(messages), chosen))
        pictures = sum(len(message.pictures) for message in messages)
        return FakeStream(self, messages[-1].text, chosen, pictures)

    def complete(self, prompt: str, **sampling: Any) -> FakeStream:
        chosen = Sampling.of(sampling)
        self.asked.append((prompt, chosen))
        return FakeStream(self, prompt, chosen, 0)

    def chat(self, _messages: Any, **_sampling: Any) -> None:
        """The question that finds out whether it answers."""

    def close(self) -> None:
        """Nothing runs by itself."""
