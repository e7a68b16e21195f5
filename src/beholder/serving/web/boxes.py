"""The boxes of an answer on the conversation's pictures, in the originals' pixels, with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from beholder.core.types import Box
from beholder.grounding.draw import draw_boxes
from beholder.grounding.phrases import read_phrases
from beholder.serving.media import decode
from beholder.serving.web.conversation import POLICY, Conversation


def labels(answer: str, count: int) -> list[str]:
    """What stands before each box in the answer; numbers where that cannot be told."""
    found = [phrase.text for phrase in read_phrases(answer) for _ in phrase.boxes]
    if len(found) != count:
        found = [""] * count
    return [text or str(number) for number, text in enumerate(found, 1)]


def boxed_places(conversation: Conversation, number: int) -> list[int]:
    """Which of the conversation's pictures have boxes in the answer of turn `number`, in order."""
    known = range(len(conversation.pictures))
    return sorted({box["picture"] for box in conversation.turns[number].boxes if box["picture"] in known})


def boxed_picture(conversation: Conversation, number: int, place: int) -> Image.Image:
    """A copy of a picture of the conversation with the boxes drawn that turn `number` names on it."""
    turn = conversation.turns[number]
    named = zip(turn.boxes, labels(turn.answer or "", len(turn.boxes)), strict=True)
    here = [(_box(box), label) for box, label in named if box["picture"] == place]
    shown = decode(conversation.pictures[place].held, POLICY)
    return draw_boxes(shown, [box for box, _ in here], [label for _, label in here])


def _box(told: Mapping[str, Any]) -> Box:
    corners: Sequence[float] = told["pixels"]
    return Box(corners[0], corners[1], corners[2], corners[3], told["picture"])
