"""The spine: one message type in, one sampling type, one answer out. No tensors here, no text processing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal

from beholder.core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]

# The settings of `Sampling` that are numbers.
KINDS: dict[str, type] = {
    **dict.fromkeys(("max_tokens", "top_k", "seed", "logprobs"), Integral),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), Real),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), Real),
}

# Beyond these, products and quotients of scores are no longer numbers.
MOST = 1e9
PENALTIES = (0.01, 100)


def check_text(text: str) -> None:
    """Refuse what no tokenizer can read: bytes that were no UTF-8 arrive as half characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text is not valid Unicode: character {error.start + 1} is {text[error.start]!a}, "
            "half of one; give it in UTF-8"
        ) from None


@dataclass(frozen=True)
class Message:
    """One turn. Pictures (opened, RGB) stand among the strings where they stand; the text holds no marker."""

    role: Role
    parts: tuple[str | Image, ...]

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise InputError(f"unknown role {self.role!r}; use system, user or assistant")
        if self.role != "user" and self.pictures:
            raise InputError(f"a picture stands in a {self.role} message; pictures belong to user messages")
        check_text(self.text)

    @classmethod
    def system(cls, text: str) -> Message:
        """What the assistant is told before the conversation."""
        return cls("system", (text,))

    @classmethod
    def user(cls, *parts: str | Image) -> Message:
        """What the person says and shows, in order."""
        return cls("user", parts)

    @classmethod
    def assistant(cls, text: str) -> Message:
        """What the model said."""
        return cls("assistant", (text,))

    @property
    def text(self) -> str:
        """All text parts joined; a picture leaves nothing behind."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Image, ...]:
        """The pictures in order."""
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen and when to stop; `temperature` 0 is greedy, `top_k` 0 keeps them all.

    A `temperature` so small that nothing but the largest score has a chance is as good as 0.

    `repetition_penalty` looks at prompt and answer, `presence_penalty` and `frequency_penalty` at the answer.
    `logit_bias` is added to the scores of tokens, by id. `stop` are strings, `stop_ids` tokens; `ignore_eos`
    goes on after the model's own end tokens. `logprobs` asks for the log-probability of each chosen token and
    that many of the likeliest.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        checks = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature <= MOST, f"0 (greedy) or more, up to {MOST:.0e}"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "at least 0 and below 1"),
            (
                "repetition_penalty",
                PENALTIES[0] <= self.repetition_penalty <= PENALTIES[1],
                f"{PENALTIES[0]} to {PENALTIES[1]}; 1 changes nothing",
            ),
            ("presence_penalty", abs(self.presence_penalty) <= MOST, f"a number within {MOST:.0e}"),
            ("frequency_penalty", abs(self.frequency_penalty) <= MOST, f"a number within {MOST:.0e}"),
            (
                "logit_bias",
                all(abs(value) <= MOST for value in self.logit_bias.values()),
                f"numbers within {MOST:.0e} by token id",
            ),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= 100, "left out or 0 to 100"),
            ("stop", not isinstance(self.stop, str) and all(self.stop), "a tuple of non-empty strings"),
        )
        for name, holds, wanted in checks:
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

    def _check_kinds(self) -> None:
        """A text where a number belongs would be found out in the middle of an answer."""
        for name, kind in KINDS.items():
            value = getattr(self, name)
            is_left_out = value is None and name in ("seed", "logprobs")
            if not is_left_out and (isinstance(value, bool) or not isinstance(value, kind)):
                wanted = "a whole number" if kind is Integral else "a number"
                raise InputError(f"{name} is {value!r}; it must be {wanted}")

    def ends(self, terminators: Iterable[int]) -> frozenset[int]:
        """The ids after which the answer is over, given the model's own end tokens."""
        return frozenset(self.stop_ids).union(() if self.ignore_eos else terminators)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Sampling:
        """Build from keyword arguments; a misspelt name is an error that lists the right ones."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(values.keys() - set(known)):
            raise InputError(f"unknown sampling settings {unknown}; known: {', '.join(known)}")
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Usage:
    """Token counts of one request; `picture_tokens` are part of `prompt_tokens`.

    So are `cached_tokens`, which an earlier request had computed already.
    """

    prompt_tokens: int
    picture_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Seconds from the call: until inputs were ready, until the first token, until the last.

    And seconds spent: waiting for a turn, in the vision tower, reading the prompt (tower included), and per
    further token.
    """

    prepared: float
    first_token: float
    total: float
    queue: float = 0.0
    tower: float = 0.0
    prefill: float = 0.0
    per_token: float = 0.0


@dataclass(frozen=True)
class TokenScore:
    """Log-probability of a chosen token, before penalties and filters, and the likeliest ids with theirs."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the original picture; `picture` counts the conversation's pictures from 0."""

    x1: float
    y1: float
    x2: float
    y2: float
    picture: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model said, why it stopped, and what it cost. Prints as its text."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    boxes: tuple[Box, ...] = field(default=())
    scores: tuple[TokenScore, ...] = field(default=())

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json.dumps(asdict(self), ensure_ascii=False)
