"""A model behind any OpenAI-compatible server, asked as a model in this process is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, cast

from beholder.core.types import Box, Message
from beholder.evaluation.endpoint import Endpoint, content_parts
from beholder.evaluation.task import Reply
from beholder.grounding.boxes import Frame
from beholder.grounding.dialects import place, read_boxes
from beholder.grounding.habits import Habits

PADDED = ("llava", "internvl_chat", "qh360vl")  # families that name boxes in fractions of the padded square
# What may be in a family's answers, whatever its checkpoint; of any other all forms are read.
DIALECTS = dict.fromkeys(PADDED, ("unit-list", "thousandths")) | {"cogvlm": ("thousandths",)}


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
        boxes = told_boxes(told)
        if boxes is None:
            boxes = self.boxes(text, messages)
        return Reply(text, boxes, tokens, time.perf_counter() - start)

    def answers(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> list[Reply]:
        """As many answers at once as there are conversations; the server batches them."""
        with ThreadPoolExecutor(max(1, len(conversations))) as pool:
            return list(pool.map(self.answer, conversations, repeat(max_tokens)))

    def boxes(self, text: str, messages: Sequence[Message]) -> tuple[Box, ...]:
        """Boxes of an answer in pixels of the last picture, in the forms and the space of the family.

        Where no family is named every form is read, each in the space that it is usual in.
        """
        pictures = [picture for message in messages for picture in message.pictures]
        if not pictures:
            return ()
        size, last = pictures[-1].size, len(pictures) - 1
        if self.family not in DIALECTS:
            return tuple(place(box, *size, last) for box in read_boxes(text).boxes)
        frame = (Frame.padded_square if self.family in PADDED else Frame.picture)(*size)
        return Habits(dialects=DIALECTS[self.family]).boxes(text, frame, size, last)


def told_boxes(told: Mapping[str, Any]) -> tuple[Box, ...] | None:
    """The boxes that a server of ours gives beside an answer, in pixels; None where it gives none."""
    given = told["choices"][0]["message"].get("boxes")
    if not isinstance(given, list):
        return None
    boxes = cast("list[dict[str, Any]]", given)
    return tuple(Box(*one["pixels"], picture=one["picture"]) for one in boxes)
