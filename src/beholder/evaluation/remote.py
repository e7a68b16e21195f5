"""A model behind any OpenAI-compatible server, asked as a model in this process is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from beholder.core.types import Box, Message
from beholder.evaluation.endpoint import Endpoint, content_parts
from beholder.evaluation.task import Reply
from beholder.grounding.boxes import Frame, parse_boxes, to_pixels

PADDED = ("llava", "internvl_chat", "qh360vl")  # families that name boxes in fractions of the padded square


class RemoteModel:
    """One model of a server. `family` chooses how the originals ask and what boxes mean."""

    def __init__(self, endpoint: Endpoint, model: str, family: str = "") -> None:
        self.endpoint = endpoint
        self.name = model
        self.family = family

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """One greedy answer."""
        start = time.perf_counter()
        settings = {"temperature": 0.0, "max_tokens": max_tokens}
        text, told = self.endpoint.text(self.name, content_parts(messages), settings)
        usage: dict[str, Any] = told.get("usage") or {}
        tokens = int(usage.get("completion_tokens") or 0)
        text = text.strip()
        return Reply(text, self.boxes(text, messages), tokens, time.perf_counter() - start)

    def answers(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> list[Reply]:
        """As many answers at once as there are conversations; the server batches them."""
        with ThreadPoolExecutor(max(1, len(conversations))) as pool:
            return list(pool.map(self.answer, conversations, repeat(max_tokens)))

    def boxes(self, text: str, messages: Sequence[Message]) -> tuple[Box, ...]:
        """Boxes of an answer in pixels of the last picture."""
        pictures = [picture for message in messages for picture in message.pictures]
        if not pictures:
            return ()
        width, height = pictures[-1].size
        frame = (Frame.padded_square if self.family in PADDED else Frame.picture)(width, height)
        return tuple(to_pixels(box, frame, len(pictures) - 1) for box in parse_boxes(text))
