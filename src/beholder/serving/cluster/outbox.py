"""What a replica hands over at once: Ray asks about a millisecond for each thing, however small it is."""

from __future__ import annotations

import asyncio

from starlette.types import Message

from beholder.serving.cluster.calls import Head, Parcel


class Outbox:
    """What an application says, until somebody takes it, all of it together.

    Who takes is woken when the application itself waits for something. So what it says in one go travels in
    one parcel (a whole answer; a stream's opening and its first words; its last words and its end), and no
    word ever waits for company.
    """

    def __init__(self) -> None:
        self._head: Head | None = None
        self._blocks: list[bytes] = []
        self._news = asyncio.Event()
        self._is_closed = False

    async def put(self, message: Message) -> None:
        """A message of ASGI, as applications send them; never waits."""
        if message["type"] == "http.response.start":
            self._head = Head(message["status"], tuple(map(tuple, message["headers"])))
            self._news.set()
        elif body := message.get("body"):
            self._blocks.append(body)
            self._news.set()

    def close(self) -> None:
        """Nothing more is said."""
        self._is_closed = True
        self._news.set()

    async def take(self) -> Parcel | None:
        """Everything that nobody has taken, once there is something; None after the last of it."""
        await self._news.wait()
        if not self._is_closed:
            self._news.clear()
        head, body = self._head, b"".join(self._blocks)
        self._head, self._blocks = None, []
        if head is not None:
            return (head, body) if body else head
        return body or None
