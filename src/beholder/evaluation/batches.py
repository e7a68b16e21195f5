"""Greedy answers to many conversations at once, through the engine that everybody's requests go through.

Benchmarks ask many questions about one picture: the engine looks at it once, reads what prompts begin with in
common once, and answers side by side. The slow twin is `VLM.chat`, and both must say the same.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from beholder.core.types import Message
from beholder.evaluation.task import Reply

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.api import VLM, AnswerStream

Conversation = Sequence[Message]

AHEAD = 64  # conversations that are prepared and not yet answered; the engine runs half as many at once


@dataclass(frozen=True)
class Lazily(Sequence[Conversation]):
    """Conversations that are made one by one as they are asked for, from whatever they are made of."""

    make: Callable[[Any], Conversation]
    sources: Sequence[Any]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: Any) -> Any:
        return self.make(self.sources[index])


def answer_one(vlm: VLM, messages: Conversation, max_tokens: int) -> Reply:
    """The slow twin: one conversation by itself."""
    answer = vlm.chat(messages, max_tokens=max_tokens)
    return Reply(answer.text, answer.boxes, answer.usage.completion_tokens, answer.timings.total)


def answer_stream(vlm: VLM, conversations: Iterable[Conversation], max_tokens: int) -> Iterator[Reply]:
    """One answer for each conversation, in order, each with the time since the one before it.

    What is wrong with one is raised, and then nothing is left running: who wants to know whose fault it is
    asks one by one. As an answer is read the next conversation is made, so few are held in memory.
    """
    before = time.perf_counter()
    model, waiting = preparing_once(vlm), iter(conversations)
    streams: deque[AnswerStream] = deque()
    try:
        while True:
            # So many stand in the queue before a step that whether it is full depends on no chance.
            for messages in islice(waiting, AHEAD - len(streams)):
                streams.append(model.stream(messages, max_tokens=max_tokens))
            if not streams:
                return
            answer = streams[0].read()
            streams.popleft()
            now = time.perf_counter()
            yield Reply(answer.text, answer.boxes, answer.usage.completion_tokens, now - before)
            before = now
    finally:
        for stream in streams:
            stream.close()


def answer_batch(vlm: VLM, conversations: Iterable[Conversation], max_tokens: int) -> list[Reply]:
    """All of them at once."""
    return list(answer_stream(vlm, conversations, max_tokens))


def preparing_once(vlm: VLM) -> VLM:
    """The same model, which prepares a picture once for all questions about it that follow each other.

    Only for pictures that nobody changes meanwhile: they are known by being the same objects.
    """
    if not hasattr(vlm.processor, "picture_inputs"):
        return vlm
    other = copy.copy(vlm)
    other.processor = copy.copy(vlm.processor)
    prepare, before = vlm.processor.picture_inputs, _Prepared()

    def picture_inputs(pictures: Sequence[Image]) -> dict[str, Any]:
        if len(pictures) != len(before.pictures) or any(map(_is_other, pictures, before.pictures)):
            before.pictures, before.inputs = tuple(pictures), prepare(pictures)
        return dict(before.inputs)

    other.processor.picture_inputs = picture_inputs
    return other


@dataclass
class _Prepared:
    """The pictures that were prepared last, and what the model takes of them."""

    pictures: Sequence[Image] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _is_other(one: Image, other: Image) -> bool:
    return one is not other
