"""From a conversation and the page's settings to an answer that grows; two at once for side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

from beholder.core.errors import BeholderError
from beholder.serving.web.client import Client
from beholder.serving.web.conversation import Conversation


@dataclass(frozen=True)
class Wanted:
    """The settings beside a question, in the order in which the page hands them over."""

    model: str | None
    system: str
    template: str | None
    temperature: float
    top_p: float
    top_k: float
    max_tokens: float
    key: str
    language: str

    def body(self, conversation: Conversation) -> dict[str, Any]:
        """The request. What is not OpenAI's is only there when it asks for something."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": replace(conversation, system=self.system).messages(),
            "temperature": self.temperature,
            "max_tokens": int(self.max_tokens),
        }
        if self.top_p < 1:
            body["top_p"] = self.top_p
        if self.top_k > 0:
            body["top_k"] = int(self.top_k)
        if self.template:
            body["template"] = self.template
        return body


async def answers(client: Client, conversation: Conversation, wanted: Wanted) -> AsyncGenerator[Conversation]:
    """The conversation again and again, with more and more of the answer to its last question."""
    start = time.perf_counter()
    turn = replace(conversation.turns[-1].unanswered(), answer="", model=wanted.model or "")
    async with aclosing(client.stream(wanted.body(conversation), wanted.key)) as parts:
        async for part in parts:
            turn = replace(
                turn,
                answer=(turn.answer or "") + part.text,
                boxes=part.boxes or turn.boxes,
                reason=part.reason or turn.reason,
                usage=part.usage or turn.usage,
                seconds=time.perf_counter() - start,
            )
            yield conversation.answered(turn)
    yield conversation.answered(turn)


Happening = tuple[int, Conversation | BeholderError]


async def together(streams: Sequence[AsyncIterator[Conversation]]) -> AsyncGenerator[Happening]:
    """What several streams bring, as it comes, each with its number; a refused one ends with its error."""
    queue: asyncio.Queue[Happening | None] = asyncio.Queue()

    async def pump(number: int, stream: AsyncIterator[Conversation]) -> None:
        try:
            async for conversation in stream:
                queue.put_nowait((number, conversation))
        except BeholderError as error:
            queue.put_nowait((number, error))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            happened = await queue.get()
            if happened is None:
                left -= 1
            else:
                yield happened
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
