"""A stream that goes on after its replica was lost: another one says the same again, and the rest passes.

Only for answers that are the same each time (the likeliest token, or a seed). That the other replica says the
same is not believed but compared, letter for letter, before anything of it is passed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from beholder.serving.sse import DONE, blocks, event

UNREAD_BYTES = 2**16  # how much of a stream is kept as it came before its words alone are


class DifferentError(Exception):
    """The other replica says something else, so the answer cannot go on."""


def is_repeatable(body: Mapping[str, Any]) -> bool:
    """Whether a request is answered in the same words each time; scores of tokens are not compared."""
    is_drawn = body.get("temperature") not in (None, 0) and body.get("seed") is None
    has_scores = body.get("logprobs") not in (None, False)
    return not is_drawn and not has_scores


class Told:
    """What one stream has said so far, by choice, over all replicas that it had.

    What the first replica says passes unread: most streams have no second one. It is read when there is one.
    """

    def __init__(self) -> None:
        self._is_first = True
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._texts: dict[int, str] = {}
        self._places: dict[int, int] = {}  # how far the present replica has come
        self._opened: set[int] = set()
        self._ended: set[int] = set()
        self._heading: dict[str, Any] = {}

    def begin_again(self) -> None:
        """Another replica answers from the beginning."""
        self._read()
        self._is_first = False
        self._places = {}

    def pass_on(self, held: bytes) -> Iterator[bytes]:
        """What the client gets of some blocks: nothing that it has already.

        DifferentError on other words, after what came before them.
        """
        if self._is_first:
            self._keep(held)
            yield held
            return
        for block in blocks(held):
            if (fresh := self._fresh(block)) is not None:
                yield fresh

    def _keep(self, held: bytes) -> None:
        self._unread.append(held)
        self._unread_bytes += len(held)
        if self._unread_bytes > UNREAD_BYTES:
            self._read()

    def _read(self) -> None:
        """Learn what was said in the blocks that passed unread."""
        for block in blocks(b"".join(self._unread)):
            self._fresh(block)
        self._unread, self._unread_bytes = [], 0

    def _fresh(self, block: bytes) -> bytes | None:
        """A block as the client gets it; None for what it has already."""
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
