"""The Llama-3 chat format as 360VL uses it, and the system prompt of its quick start and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.templates import Segment

PICTURE_TOKEN = "<|reserved_special_token_44|>"
END_OF_TURN = "<|eot_id|>"
END_OF_TEXT = "<|end_of_text|>"

PUBLISHED_SYSTEM_PROMPT = (
    "You are a multilingual, helpful, respectful and honest assistant who can respond in the same "
    "language, depending on the language of the question. Try to be as helpful as possible while still "
    "being safe. Your answer should not contain anything that is false, unhealthy, harmful, immoral, "
    "racist, sexist, toxic, dangerous, or illegal, and if the question relates to such content, please "
    "decline to answer. Make sure your answer is socially fair and positive. If a question doesn't make "
    "any sense, or is inconsistent with the facts, explain why instead of answering the wrong answer. If "
    "you don't know the answer to a question, don't share false information."
)


@dataclass(frozen=True)
class Llama3Template:
    """Llama-3 turns; a message's pictures stand before its text, each followed by a newline.

    The published code knows one picture, before the first question. Later and further pictures are written in
    the same form. `system_prompt` opens a conversation that brings no system message; empty means no system
    turn, and so does an empty system message.
    """

    system_prompt: str = PUBLISHED_SYSTEM_PROMPT

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[Segment]:
        """Begin of text, the turns, and the opening of the answer where asked for."""
        if any(message.role == "system" for message in messages[1:]):
            raise InputError("a system message stands after the first message; put it at the beginning")
        if self.system_prompt and not (messages and messages[0].role == "system"):
            messages = (Message.system(self.system_prompt), *messages)
        segments = [Segment("control", "<|begin_of_text|>")]
        for message in messages:
            if message.role == "system" and not message.text.strip():
                continue
            segments += _opening(message.role)
            segments += _content(message)
            segments.append(Segment("control", END_OF_TURN, trained=message.role == "assistant"))
        if add_generation_prompt:
            segments += _opening("assistant")
        return segments


def _opening(role: str) -> list[Segment]:
    return [
        Segment("control", "<|start_header_id|>"),
        Segment("text", role),
        Segment("control", "<|end_header_id|>"),
        Segment("text", "\n\n"),
    ]


def _content(message: Message) -> list[Segment]:
    """Pictures, then text. The format trims a whole message, whose left end is the first picture, if any."""
    if not message.pictures:
        return [Segment("text", message.text.strip(), trained=message.role == "assistant")]
    text = message.text.rstrip()
    segments: list[Segment] = []
    for _ in message.pictures:
        segments += [Segment("picture"), Segment("text", "\n")]
    if text:
        return [*segments, Segment("text", text)]
    return segments[:-1]
