"""Whether a replica that somebody waits for is still there: one look now and then for a whole answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from beholder.serving.cluster.calls import LostError

LOOK_SECONDS = 0.5
Result = TypeVar("Result")


class Watch:
    """Ends the waits of one answer with `LostError` when a look says so.

    `is_lost` is asked every half second while somebody waits, with the time (`time.monotonic`) at which the
    wait began. A wait costs next to nothing: no task and no timer of its own.
    """

    def __init__(self, is_lost: Callable[[float], bool]) -> None:
        self._is_lost = is_lost
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Task[object] | None = None
        self._since = 0.0
        self._was_lost = False
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    async def wait(self, what: Awaitable[Result]) -> Result:
        """What is awaited; LostError if a look finds that it will not come."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Watch waits within a task")
        cancelling = task.cancelling()
        self._waiting, self._since = task, time.monotonic()
        try:
            return await what
        except asyncio.CancelledError:
            if self._was_lost and task.uncancel() <= cancelling:
                raise LostError from None
            raise
        finally:
            self._waiting = None

    def _look(self) -> None:
        if self._waiting is not None and self._is_lost(self._since):
            self._was_lost = True
            self._waiting.cancel()
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
