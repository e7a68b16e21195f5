"""What the page remembers of a conversation, how it is asked, and how it is kept in a file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from beholder.core.errors import InputError
from beholder.serving.media import MediaPolicy, decode, sniff

FORMAT, VERSION = "beholder conversation", 1
POLICY = MediaPolicy()


@dataclass(frozen=True)
class Picture:
    """A picture as it was given: the file's bytes, and its size once upright."""

    held: bytes = field(repr=False)
    width: int
    height: int

    @classmethod
    def of(cls, held: bytes) -> Picture:
        """From a file's bytes, refused here if the picture cannot be used."""
        width, height = decode(held, POLICY).size
        return cls(held, width, height)

    @cached_property
    def digest(self) -> str:
        """A name for these bytes."""
        return hashlib.sha256(self.held).hexdigest()[:32]

    @property
    def kind(self) -> str:
        """`png`, `jpeg`, `webp`, `gif` or `bmp`, by its first bytes."""
        return (sniff(self.held) or "png").lower()

    @property
    def url(self) -> str:
        """As a data URL."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.held).decode('ascii')}"


@dataclass(frozen=True)
class Turn:
    """A question with its pictures and what came of it; `answer` is None as long as nothing did.

    `boxes` are as the API tells them, counting the pictures of the whole conversation.
    """

    question: str
    pictures: tuple[Picture, ...] = ()
    answer: str | None = None
    boxes: tuple[Mapping[str, Any], ...] = ()
    reason: str | None = None
    usage: Mapping[str, Any] | None = None
    seconds: float | None = None
    model: str = ""

    def unanswered(self) -> Turn:
        """The question alone."""
        return Turn(self.question, self.pictures)


@dataclass(frozen=True)
class Conversation:
    """Turns, and what the model is told before them; without `system` the model's own prompt stands there."""

    turns: tuple[Turn, ...] = ()
    system: str = ""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, counted as boxes count them."""
        return tuple(picture for turn in self.turns for picture in turn.pictures)

    def asked(self, question: str, pictures: Sequence[Picture] = ()) -> Conversation:
        """With one more question."""
        return replace(self, turns=(*self.turns, Turn(question, tuple(pictures))))

    def answered(self, turn: Turn) -> Conversation:
        """With the last turn as it is now."""
        return replace(self, turns=(*self.turns[:-1], turn))

    def asked_again(self, number: int, question: str | None = None) -> Conversation:
        """Up to the question of a turn, which may be put differently; what came after it is gone."""
        turn = self.turns[number].unanswered()
        if question is not None:
            turn = replace(turn, question=question)
        return replace(self, turns=(*self.turns[:number], turn))

    def without_last(self) -> Conversation:
        """Without its last turn."""
        return replace(self, turns=self.turns[:-1])

    def messages(self) -> list[dict[str, Any]]:
        """As the API takes it."""
        told: list[dict[str, Any]] = []
        if self.system.strip():
            told.append({"role": "system", "content": self.system})
        for turn in self.turns:
            told.append({"role": "user", "content": _content(turn)})
            if turn.answer is not None:
                told.append({"role": "assistant", "content": turn.answer})
        return told

    def export(self) -> str:
        """As a file that holds everything, the pictures too."""
        turns: list[dict[str, Any]] = []
        for turn in self.turns:
            kept = {
                "question": turn.question, "pictures": [picture.url for picture in turn.pictures],
                "answer": turn.answer, "boxes": list(turn.boxes), "finish_reason": turn.reason,
                "usage": turn.usage, "seconds": turn.seconds, "model": turn.model,
            }  # fmt: skip
            turns.append(kept)
        told = {"format": FORMAT, "version": VERSION, "system": self.system, "turns": turns}
        return json.dumps(told, ensure_ascii=False, indent=1)


def _content(turn: Turn) -> Any:
    """A message with pictures has parts, one without is its text."""
    if not turn.pictures:
        return turn.question
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture.url}} for picture in turn.pictures
    ]
    return [*parts, {"type": "text", "text": turn.question}] if turn.question else parts


def read_conversation(text: str) -> Conversation:
    """What `export` wrote; InputError that says what is wrong with anything else."""
    try:
        read: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"the file is not JSON ({error})") from None
    told = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    if told.get("format") != FORMAT:
        raise InputError(f"the file is no {FORMAT}; choose one that this page exported")
    if told.get("version") != VERSION:
        raise InputError(f"the file has version {told.get('version')!r}, and {VERSION} is read here")
    turns: Any = told.get("turns")
    if not isinstance(turns, list) or not isinstance(told.get("system"), str):
        raise InputError("the file has no list of turns or no system text")
    listed = cast("list[Any]", turns)
    return Conversation(tuple(_turn(turn, number) for number, turn in enumerate(listed, 1)), told["system"])


def _turn(read: Any, number: int) -> Turn:
    kinds: dict[str, Any] = {
        "question": str, "pictures": list, "answer": str | None, "boxes": list, "finish_reason": str | None,
        "usage": dict | None,  # pyright: ignore[reportMissingTypeArgument]
        "seconds": int | float | None, "model": str,
    }  # fmt: skip
    told = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    for name, kind in kinds.items():
        if name not in told or not isinstance(told[name], kind):
            raise InputError(f"turn {number} of the file has no proper {name}")
    if not all(_is_box(box) for box in told["boxes"]):
        raise InputError(f"turn {number} of the file has no proper boxes")
    try:
        pictures = tuple(Picture.of(_bytes_of(url)) for url in told["pictures"])
    except InputError as error:
        raise InputError(f"a picture in turn {number} of the file cannot be used: {error}") from None
    return Turn(
        told["question"], pictures, told["answer"], tuple(told["boxes"]), told["finish_reason"],
        told["usage"], told["seconds"], told["model"],
    )  # fmt: skip


def _is_box(box: Any) -> bool:
    told = cast("dict[str, Any]", box) if isinstance(box, dict) else {}
    pixels: Any = told.get("pixels")
    if not isinstance(pixels, list) or type(told.get("picture")) is not int:
        return False
    corners = cast("list[Any]", pixels)
    return len(corners) == 4 and all(type(one) in (int, float) for one in corners)


def _bytes_of(url: Any) -> bytes:
    if not isinstance(url, str) or not url.startswith("data:image/") or ";base64," not in url:
        raise InputError("it is no data URL")
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise InputError("it does not hold valid base64") from None
