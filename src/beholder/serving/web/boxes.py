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


def boxed_pictures(conversation: Conversation, number: int) -> list[Image.Image]:
    """Copies of the pictures that have boxes in the answer of turn `number`, with those boxes drawn."""
    turn = conversation.turns[number]
    pictures = conversation.pictures
    named = list(zip(turn.boxes, labels(turn.answer or "", len(turn.boxes)), strict=True))
    drawn: list[Image.Image] = []
    places: set[int] = {box["picture"] for box, _ in named}
    for place in sorted(place for place in places if 0 <= place < len(pictures)):
        here = [(_box(box), label) for box, label in named if box["picture"] == place]
        shown = decode(pictures[place].held, POLICY)
        drawn.append(draw_boxes(shown, [box for box, _ in here], [label for _, label in here]))
    return drawn


def _box(told: Mapping[str, Any]) -> Box:
    corners: Sequence[float] = told["pixels"]
    return Box(corners[0], corners[1], corners[2], corners[3], told["picture"])
