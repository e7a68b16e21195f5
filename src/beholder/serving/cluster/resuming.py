"""A stream that goes on after its replica was lost: another one says the same again, and the rest passes.

Only for answers that are the same each time (the likeliest token, or a seed). That the other replica says the
same is not believed but compared, letter for letter, before anything of it is passed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from beholder.serving.sse import DONE, event


class DifferentError(Exception):
    """The other replica says something else, so the answer cannot go on."""


def is_repeatable(body: Mapping[str, Any]) -> bool:
    """Whether a request is answered in the same words each time; scores of tokens are not compared."""
    is_drawn = body.get("temperature") not in (None, 0) and body.get("seed") is None
    has_scores = body.get("logprobs") not in (None, False)
    return not is_drawn and not has_scores


class Told:
    """What one stream has said so far, by choice, over all replicas that it had."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._places: dict[int, int] = {}  # how far the present replica has come
        self._opened: set[int] = set()
        self._ended: set[int] = set()
        self._heading: dict[str, Any] = {}

    def begin_again(self) -> None:
        """Another replica answers from the beginning."""
        self._places = {}

    def pass_on(self, block: bytes) -> bytes | None:
        """A block as the client gets it; None for what it has already. DifferentError on other words."""
        if not block.startswith(b"data: "):
            return block
        if block == DONE:
            if any(self._places.get(number, 0) < len(text) for number, text in self._texts.items()):
                raise DifferentError
            return block
        told: dict[str, Any] = json.loads(block[6:])
        if "choices" not in told:
            return block
        choices: list[dict[str, Any]] = told["choices"]
        self._heading = self._heading or {name: told.get(name) for name in ("id", "created")}
        fresh = [choice for choice in choices if self._is_new(choice)]
        if choices and not fresh:
            return None
        return event({**told, **self._heading, "choices": fresh})

    def _is_new(self, choice: dict[str, Any]) -> bool:
        """Whether a choice says something; what the client has of it is cut off."""
        number: int = choice["index"]
        holder, name = (choice["delta"], "content") if "delta" in choice else (choice, "text")
        piece: str = holder.get(name) or ""
        place, known = self._places.get(number, 0), self._texts.get(number, "")
        overlap = min(len(known) - place, len(piece))
        if piece[:overlap] != known[place : place + overlap]:
            raise DifferentError
        self._places[number] = place + len(piece)
        self._texts[number] = known + piece[overlap:]
        if piece:
            holder[name] = piece[overlap:]
        is_end = choice.get("finish_reason") is not None
        if is_end and self._places[number] < len(known):
            raise DifferentError
        is_new = bool(piece[overlap:]) or (is_end and number not in self._ended)
        is_opening = "role" in cast("dict[str, Any]", holder) and number not in self._opened
        if is_end:
            self._ended.add(number)
        if "role" in holder:
            self._opened.add(number)
        return is_new or is_opening
