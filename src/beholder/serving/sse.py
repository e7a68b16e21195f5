"""Server-sent events, and answers that end when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
Result = TypeVar("Result")
# Made once: `json.dumps` with settings of its own makes one for each event.
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(value: dict[str, Any]) -> bytes:
    """One event that holds JSON."""
    return b"data: " + _encoded(value).encode() + b"\n\n"


def blocks(held: bytes) -> list[bytes]:
    """The events and comments in some that travelled together; no line of theirs is empty."""
    return [block + b"\n\n" for block in held.split(b"\n\n") if block]


def has_event(held: bytes) -> bool:
    """Whether there is more than comments in it."""
    return any(not block.startswith(b":") for block in blocks(held))


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result | None:
    """The result of some work; None, and the work cancelled, if the client goes away before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


class EventStream(Response):
    """Sends events as they come. At the end, or when the client goes away, `close` is called at once.

    One that stays but does not read is left after `seconds`.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes], close: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop where the client stops."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await unless_gone(self._send(send), receive)
        finally:
            await self._events.aclose()
            await self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for block in self._events:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
