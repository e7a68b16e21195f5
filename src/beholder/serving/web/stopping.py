"""Ends an answer that is under way before anything else is shown.

Gradio's own way, `cancels=`, cancels the server's task from the browser while its messages still travel: some
arrived after the stop, or the page showed "Error" over the chat. Here the handler itself ends, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import gradio

PATIENCE = 5.0  # seconds; an answer whose visitor has gone may never be asked for its end

T = TypeVar("T")
Handler = Callable[..., AsyncGenerator[Any]]


@dataclass(eq=False)
class _Answer:
    """A handler under way: the task that runs it, and whether the page has seen its end."""

    task: asyncio.Task[None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_stopped: bool = False


class Running:
    """The answers under way, by the visitor's session."""

    def __init__(self) -> None:
        self._answers: dict[str | None, set[_Answer]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._answers.values()))

    async def until_stopped(self, session: str | None, updates: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """What a handler gives, one ahead at most; after `stop` nothing more, without a word."""
        queue: asyncio.Queue[T | None] = asyncio.Queue(1)
        task = asyncio.create_task(_pump(updates, queue))
        task.add_done_callback(lambda _: None if queue.full() else queue.put_nowait(None))
        answer = _Answer(task)
        self._answers.setdefault(session, set()).add(answer)
        try:
            while not (task.done() and queue.empty()):
                update = await queue.get()
                if update is None or answer.is_stopped:
                    break
                yield update
            if not answer.is_stopped:
                await task  # its error is the handler's
        finally:
            task.cancel()
            await asyncio.wait({task})
            answer.ended.set()
            self._answers[session].discard(answer)
            if not self._answers[session]:
                del self._answers[session]

    async def stop(self, session: str | None) -> None:
        """End what a visitor has under way; returns when the page has been given its last update."""
        answers = list(self._answers.get(session, ()))
        for answer in answers:
            answer.is_stopped = True
            answer.task.cancel()
        if answers:
            ends = [asyncio.ensure_future(answer.ended.wait()) for answer in answers]
            _, late = await asyncio.wait(ends, timeout=PATIENCE)
            for end in late:
                end.cancel()


async def _pump(updates: AsyncGenerator[T], queue: asyncio.Queue[T | None]) -> None:
    async with aclosing(updates):
        async for update in updates:
            await queue.put(update)


def stoppable(place: str) -> Callable[[Handler], Handler]:
    """A handler that ends at its visitor's stop. `place` names the `Running` on its object.

    The handler's first parameter is Gradio's request, by whose annotation Gradio knows to give it.
    """

    def stoppable_handler(handler: Handler) -> Handler:
        @wraps(handler)
        async def run(self: Any, request: gradio.Request, *given: Any) -> AsyncGenerator[Any]:
            running: Running = getattr(self, place)
            updates = running.until_stopped(request.session_hash, handler(self, request, *given))
            async with aclosing(updates):
                async for update in updates:
                    yield update

        return run

    return stoppable_handler
