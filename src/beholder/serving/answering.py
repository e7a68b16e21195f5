"""Between the event loop and the engine: answers are computed in threads and arrive as events.

This is the one place of the server that talks to a `VLM`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from beholder.core.types import Answer, Message, TokenScore
from beholder.processing.messages import read_messages
from beholder.serving.errors import APIError
from beholder.serving.settings import Settings

if TYPE_CHECKING:
    from beholder.api import VLM, AnswerStream

MaskMaker = Callable[[], Callable[[Sequence[int]], Any]]
LONGEST_PAUSE = 0.25  # with ever so many streams, each still moves
Opener = Callable[[], "AnswerStream"]


@dataclass(frozen=True)
class Piece:
    """Some more text of answer number `choice`, with the scores of its tokens where they were asked for."""

    choice: int
    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Answer number `choice` is complete."""

    choice: int
    answer: Answer


@dataclass(frozen=True)
class Tick:
    """Nothing happened for a while; a stream says so, that nobody takes it for dead."""


Event = Piece | Finished | Tick


@dataclass
class Load:
    """How many answers a server is computing, and how many wait for a thread."""

    running: int = 0
    waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def change(self, *, waiting: int = 0, running: int = 0) -> None:
        """Count, from whatever thread."""
        with self._lock:
            self.waiting += waiting
            self.running += running


class Answers(AsyncIterator[Event]):
    """The answers of one request as they come, several of them mixed; ends when all are complete.

    With `whole` only complete answers are wanted, so their text comes in as few pieces as may be. An error of
    one is raised and ends them all, and so does the end of their time. Whoever has enough must `cancel`,
    which frees what they hold within one step of the engine.
    """

    def __init__(
        self,
        openers: Sequence[Opener],
        threads: ThreadPoolExecutor,
        load: Load,
        settings: Settings,
        *,
        whole: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._gone = threading.Event()
        self._streams: list[AnswerStream] = []
        self._left = len(openers)
        self._load = load
        self._rate = None if whole else settings.events_per_second
        load.change(waiting=len(openers))
        for choice, opener in enumerate(openers):
            threads.submit(self._work, choice, opener)
        late = APIError(408, f"the answer took longer than {settings.request_seconds:g} s", code="timeout")
        self._end = self._loop.call_later(settings.request_seconds, self._events.put_nowait, late)
        self._pause = settings.keep_alive_seconds
        self._tick = self._loop.call_later(self._pause, self._ticked)

    def cancel(self) -> None:
        """Nobody waits for these answers any more."""
        self._gone.set()
        for stream in self._streams:
            stream.cancel()
        self._end.cancel()
        self._tick.cancel()

    def _ticked(self) -> None:
        self._events.put_nowait(Tick())
        self._tick = self._loop.call_later(self._pause, self._ticked)

    async def __anext__(self) -> Event:
        if not self._left:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, BaseException):
            self.cancel()
            raise event
        self._left -= isinstance(event, Finished)
        return event

    def _work(self, choice: int, opener: Opener) -> None:
        """In a thread: one answer from its first token to its last."""
        self._load.change(waiting=-1, running=1)
        try:
            if self._gone.is_set():
                return
            stream = opener()
            self._streams.append(stream)  # before the flag is read, so that whoever sets it finds the stream
            try:
                self._forward(choice, stream)
            finally:
                stream.close()
        except BaseException as error:
            self._tell(self._events.put_nowait, error)
        finally:
            self._load.change(running=-1)

    def _forward(self, choice: int, stream: AnswerStream) -> None:
        told = 0
        while not self._gone.is_set():
            # All running streams share the rate: what they cost the model's steps must not grow with them.
            pause = None if self._rate is None else min(self._load.running / self._rate, LONGEST_PAUSE)
            piece = stream.gather(pause)
            news: list[Event] = []
            if piece is not None:
                scores = stream.scores
                news.append(Piece(choice, piece, scores[told:]))
                told = len(scores)
            if stream.is_over:
                news.append(Finished(choice, stream.answer))
            self._tell(self._put, *news)  # at once, so that the last words travel with the end
            if stream.is_over:
                return

    def _put(self, *news: Event) -> None:
        for one in news:
            self._events.put_nowait(one)

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop; a loop that is closed wants to know nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def chat_openers(
    vlm: VLM, messages: Sequence[Message], sampling: dict[str, Any], choices: int, mask: MaskMaker | None
) -> list[Opener]:
    """What starts each of `choices` answers to a conversation; `mask` makes what limits the words of one."""
    return [
        lambda chosen=chosen: vlm.submit(messages, mask=mask and mask(), **chosen)
        for chosen in _drawn(sampling, choices)
    ]


def plain_openers(vlm: VLM, prompt: str, sampling: dict[str, Any], choices: int) -> list[Opener]:
    """What starts each of `choices` continuations of a text."""

    def opener(chosen: dict[str, Any]) -> AnswerStream:
        stream = vlm.complete(prompt, **chosen)
        vlm.engine.start()
        return stream

    return [partial(opener, chosen) for chosen in _drawn(sampling, choices)]


def _drawn(sampling: dict[str, Any], choices: int) -> list[dict[str, Any]]:
    """The settings of each choice: with one seed they would all be the same, so it counts up."""
    if "seed" not in sampling:
        return [sampling] * choices
    return [{**sampling, "seed": sampling["seed"] + number} for number in range(choices)]


def checked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation, refused now if the library would refuse it later."""
    return read_messages(messages)


def plain_ids(vlm: VLM, text: str) -> list[int]:
    """The ids of a text alone, without template and special tokens."""
    return list(vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def token_text(vlm: VLM, token: int) -> str:
    """One token as text; what is only a part of a letter has a replacement character."""
    return vlm.processor.tokenizer.decode([token])
