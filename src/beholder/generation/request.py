"""What a caller holds of a submitted request: its tokens as they come, why it ended, what it cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beholder.core.types import FinishReason, TokenScore


@dataclass
class Clock:
    """Seconds of one request: in the queue, in the tower, reading the prompt, and when the tokens came."""

    submitted: float
    started: float | None = None
    tower: float = 0.0
    prefill: float = 0.0
    first: float | None = None
    last: float | None = None

    @property
    def queue(self) -> float:
        """Until the prompt began to be read; so far, if it has not."""
        return (self.started or time.perf_counter()) - self.submitted


class Request(Iterator[int]):
    """Iterates over the new ids; the last is an end token unless the limit came first.

    Waiting for the next id runs the engine if nobody else does. An error of this request is raised after its
    last token. Closing cancels; what had come stays in `ids`.
    """

    def __init__(
        self, number: int, wait: Callable[[Request], None], cancel: Callable[[Request], None]
    ) -> None:
        self.number = number
        self.ids: list[int] = []
        self.scores: list[TokenScore] = []
        self.cached_tokens = 0
        self.clock = Clock(time.perf_counter())
        self.is_cancelled = False
        self._wait = wait
        self._cancel = cancel
        self._taken = 0
        self._finish_reason: FinishReason | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None as long as it has not, or if an error ended it."""
        return self._finish_reason

    @finish_reason.setter
    def finish_reason(self, reason: FinishReason) -> None:
        self._finish_reason = reason
        self._ended.set()

    @property
    def error(self) -> BaseException | None:
        """What ended it instead."""
        return self._error

    @error.setter
    def error(self, error: BaseException) -> None:
        self._error = error
        self._ended.set()

    def pause(self, seconds: float | None) -> None:
        """Let tokens gather for so long, None: for all of them; return sooner when the request ends.

        It runs no steps, so somebody else must.
        """
        self._ended.wait(seconds)

    @property
    def is_over(self) -> bool:
        """No further token comes."""
        return self.finish_reason is not None or self.error is not None

    @property
    def has_news(self) -> bool:
        """The next call of `next` returns or raises at once."""
        return self._taken < len(self.ids) or self.is_over or self.is_cancelled

    @property
    def seconds_per_token(self) -> float:
        """Mean time of the tokens after the first."""
        clock, further = self.clock, len(self.ids) - 1
        if clock.first is None or clock.last is None or further < 1:
            return 0.0
        return (clock.last - clock.first) / further

    def __next__(self) -> int:
        if not self.has_news:
            self._wait(self)
        if self.is_cancelled:
            raise StopIteration
        if self._taken < len(self.ids):
            self._taken += 1
            return self.ids[self._taken - 1]
        if self.error is not None:
            raise self.error
        raise StopIteration

    def close(self) -> None:
        """End here; nothing more is computed for it. After the end this does nothing."""
        if not self.is_over and not self.is_cancelled:
            self.is_cancelled = True
            self._ended.set()
            self._cancel(self)
