"""What a chat template produces: segments that are text, control or a picture. No ids here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from beholder.core.types import Message


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered prompt.

    `text` never becomes a special token, even if it spells one; `control` is the literal of exactly one
    special token; `picture` is a picture's place. `trained` marks what the model learns to say.
    """

    kind: Literal["text", "control", "picture"]
    text: str = ""
    trained: bool = False


class Template(Protocol):
    """A family's way to write a conversation down."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[Segment]:
        """The whole conversation, with the opening of an assistant turn where asked for."""
        ...


def rendered_text(segments: Sequence[Segment], picture: str) -> str:
    """The prompt as one string, for people and for comparison; `picture` stands for each picture."""
    return "".join(picture if segment.kind == "picture" else segment.text for segment in segments)
