"""What the requests of one server share: its models, limits, threads and counts; and how pictures come in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from beholder.core.types import Message
from beholder.serving.admission import Admission
from beholder.serving.answering import Load, checked
from beholder.serving.errors import APIError
from beholder.serving.media import is_address, receive
from beholder.serving.metrics import Metrics
from beholder.serving.registry import Registry
from beholder.serving.room import Room, Share
from beholder.serving.schemas import ChatMessage, ImagePart, SamplingFields
from beholder.serving.settings import Settings
from beholder.serving.threads import pool

ROLES = {"developer": "system"}
MEDIA_THREADS = 8
FETCH_THREADS = 32  # each waits for somebody else's server; nobody else may wait for them


class Server:
    """What the requests of one server share."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry = registry
        self.settings = settings
        self.metrics = Metrics()
        self.admission = Admission(settings)
        self.load = Load()
        self.threads = pool(settings.most_running, "answer")
        self.media_threads = pool(MEDIA_THREADS, "media")
        self.fetch_threads = pool(FETCH_THREADS, "fetch")
        self.room = Room(settings.most_held_pixels)
        self.metrics.watch("requests_running", "Answers being computed.", lambda: self.load.running)
        self.metrics.watch("requests_waiting", "Answers waiting for their turn.", lambda: self.load.waiting)

    async def in_thread(self, function: Any, *arguments: Any) -> Any:
        """The result of something that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self.media_threads, function, *arguments)

    def close(self) -> None:
        """Begin nothing more."""
        for threads in (self.threads, self.media_threads, self.fetch_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def conversation(self, given: Sequence[ChatMessage], share: Share) -> tuple[Message, ...]:
        """The messages with their pictures received, all at the same time; `share` holds their pixels."""
        urls = [part.url for message in given for part in _parts(message) if isinstance(part, ImagePart)]
        if len(urls) > self.settings.most_pictures:
            raise APIError(
                400,
                f"there are {len(urls)} pictures and at most {self.settings.most_pictures} are taken",
                code="too_many_images", param="messages",
            )  # fmt: skip
        loop, media = asyncio.get_running_loop(), self.settings.media
        received = [
            loop.run_in_executor(
                self.fetch_threads if is_address(url) else self.media_threads, receive, url, media, share.take
            )
            for url in urls
        ]
        pictures = iter(await asyncio.gather(*received))
        self.metrics.pictures.inc(len(urls))
        messages = [
            Message(
                ROLES.get(message.role, message.role),  # pyright: ignore[reportArgumentType]
                tuple(
                    next(pictures)
                    if isinstance(part, ImagePart)
                    else part
                    if isinstance(part, str)
                    else part.text
                    for part in _parts(message)
                ),
            )
            for message in given
        ]
        return checked(messages)

    def choices(self, body: SamplingFields) -> int:
        """How many answers each prompt gets."""
        wanted = body.n or 1
        if wanted > self.settings.most_choices:
            raise APIError(
                400, f"n is {wanted} and at most {self.settings.most_choices} answers are given",
                code="invalid_value", param="n",
            )  # fmt: skip
        return wanted


def _parts(message: ChatMessage) -> Sequence[Any]:
    return [message.content] if isinstance(message.content, str) else message.content
