"""Answers as OpenAI's API words them: whole, and in the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from beholder.core.types import Answer, Box, TokenScore, Usage

TokenText = Callable[[int], str]


@dataclass(frozen=True)
class Heading:
    """What every object of one answer begins with."""

    model: str
    prefix: str
    kind: str
    fingerprint: str
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.prefix}-{uuid.uuid4().hex}")
        object.__setattr__(self, "created", int(time.time()))

    def reply(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None, *, part: bool = False
    ) -> Any:
        """The whole object, or a chunk of it."""
        suffix = ".chunk" if part and self.prefix == "chatcmpl" else ""
        told: dict[str, Any] = {
            "id": self.id,
            "object": self.kind + suffix,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        return told if usage is None else {**told, "usage": usage}


def count_usage(by_prompt: Sequence[Sequence[Usage]]) -> dict[str, Any]:
    """The counts of a request from those of its answers, grouped by prompt; a prompt counts once."""
    prompts = [usages[0] for usages in by_prompt]
    prompt = sum(usage.prompt_tokens for usage in prompts)
    answer = sum(usage.completion_tokens for usages in by_prompt for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {
            "cached_tokens": sum(usage.cached_tokens for usage in prompts),
            "picture_tokens": sum(usage.picture_tokens for usage in prompts),
        },
    }


def boxes_of(boxes: Iterable[Box], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Boxes in pixels of the original picture and as fractions of it; `picture` counts from 0."""
    told: list[dict[str, Any]] = []
    for box in boxes:
        width, height = sizes[box.picture]
        pixels = [box.x1, box.y1, box.x2, box.y2]
        fractions = [box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height]
        told.append({"picture": box.picture, "pixels": pixels, "normalised": fractions})
    return told


def chat_choice(
    number: int, answer: Answer, sizes: Sequence[tuple[int, int]], text_of: TokenText, *, scored: bool
) -> dict[str, Any]:
    """One complete answer of a conversation."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.boxes:
        message["boxes"] = boxes_of(answer.boxes, sizes)
    scores = chat_scores(answer.scores, text_of) if scored else None
    return {"index": number, "message": message, "logprobs": scores, "finish_reason": answer.finish_reason}


def chat_chunk(number: int, delta: dict[str, Any], reason: str | None, scores: Any = None) -> dict[str, Any]:
    """A part of an answer in a stream."""
    return {"index": number, "delta": delta, "logprobs": scores, "finish_reason": reason}


def chat_scores(scores: Iterable[TokenScore], text_of: TokenText) -> dict[str, Any]:
    """Log-probabilities as chat completions have them."""

    def told(token: int, logprob: float) -> dict[str, Any]:
        text = text_of(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}

    content = [
        told(score.token, score.logprob) | {"top_logprobs": [told(*pair) for pair in score.likeliest]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


def plain_choice(
    number: int, text: str, reason: str | None, scores: Sequence[TokenScore] | None, text_of: TokenText
) -> dict[str, Any]:
    """One answer of a plain completion, or a part of it; the older form of log-probabilities."""
    told = None
    if scores is not None:
        told = {
            "tokens": [text_of(score.token) for score in scores],
            "token_logprobs": [_finite(score.logprob) for score in scores],
            "top_logprobs": [
                {text_of(token): _finite(value) for token, value in score.likeliest} for score in scores
            ],
            "text_offset": [],
        }
    return {"index": number, "text": text, "logprobs": told, "finish_reason": reason}


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes this for what cannot come."""
    return max(logprob, -9999.0)
