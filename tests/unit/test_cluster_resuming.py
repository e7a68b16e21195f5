"""Streams that go on: what passes unread, and that what follows is told as if all had been read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.serving.cluster import resuming
from beholder.serving.cluster.resuming import DifferentError, Told
from beholder.serving.sse import DONE, KEEP_ALIVE, event

PIECES = st.lists(st.text("ab é\n", min_size=1, max_size=4), max_size=6)


class Reader:
    """The slow twin: reads every block of every replica, one at a time, and tells the client what is new."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.roles: set[int] = set()
        self.ends: set[int] = set()
        self.heading: dict[str, Any] = {}
        self.places: dict[int, int] = {}

    def again(self) -> None:
        self.places = {}

    def told(self, block: bytes) -> bytes | None:
        if block.startswith(b":"):
            return block
        if block == DONE:
            if any(len(text) > self.places.get(number, 0) for number, text in self.texts.items()):
                raise DifferentError
            return block
        value = json.loads(block.removeprefix(b"data: "))
        (choice,) = value["choices"]
        number, delta = choice["index"], choice["delta"]
        piece, place, text = (
            delta.get("content") or "",
            self.places.get(number, 0),
            self.texts.get(number, ""),
        )
        for letter in piece[: max(0, len(text) - place)]:
            if letter != text[place]:
                raise DifferentError
            place += 1
        new = piece[place - self.places.get(number, 0) :]
        self.places[number] = place + len(new)
        self.texts[number] = text + new
        ends = choice["finish_reason"] is not None
        if ends and self.places[number] < len(text):
            raise DifferentError
        says = new or (ends and number not in self.ends) or ("role" in delta and number not in self.roles)
        self.ends |= {number} if ends else set()
        self.roles |= {number} if "role" in delta else set()
        self.heading = self.heading or {"id": value["id"], "created": value["created"]}
        if not says:
            return None
        if piece:
            delta["content"] = new
        return event({**value, **self.heading})


def stream(pieces: Sequence[str], created: int, choice: int = 0, alive: bool = False) -> list[bytes]:
    """The blocks of an answer in these pieces."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        told = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({"id": f"chatcmpl-{created}", "created": created, "model": "m", "choices": [told]})

    words = [chunk({"content": piece}) for piece in pieces]
    opening = chunk({"role": "assistant", "content": "", "refusal": None})
    return [opening, *([KEEP_ALIVE] if alive else []), *words, chunk({}, "stop"), DONE]


def parcels(held: list[bytes], cuts: Iterable[int]) -> list[bytes]:
    """The blocks, joined between cuts."""
    places = sorted({cut % (len(held) + 1) for cut in cuts} | {0, len(held)})
    joined = [b"".join(held[start:end]) for start, end in pairwise(places)]
    return [one for one in joined if one]


def played(tellers: list[list[bytes]]) -> tuple[bytes, bool]:
    """What the client gets of replicas that are lost one after the other; whether the words differed."""
    told, out = Told(), b""
    for number, teller in enumerate(tellers):
        if number:
            told.begin_again()
        for parcel in teller:
            try:
                for block in told.pass_on(parcel):
                    out += block
            except DifferentError:
                return out, True
    return out, False


def read(tellers: list[list[bytes]]) -> tuple[bytes, bool]:
    """The same by the slow twin, block by block."""
    reader, out = Reader(), b""
    for number, teller in enumerate(tellers):
        if number:
            reader.again()
        for block in teller:
            try:
                out += reader.told(block) or b""
            except DifferentError:
                return out, True
    return out, False


@settings(deadline=None)
@given(PIECES, st.booleans(), st.lists(st.integers(0, 99), max_size=6))
def test_a_stream_that_is_not_lost_passes_as_it_is(pieces, alive, cuts):
    whole = stream(pieces, 1, alive=alive)
    assert played([parcels(whole, cuts)]) == (b"".join(whole), False) == read([whole])


@settings(deadline=None)
@given(
    st.lists(st.tuples(PIECES, st.integers(0, 9), st.lists(st.integers(0, 99), max_size=5)), max_size=3),
    st.text("ab é\n", max_size=8),
    st.data(),
)
def test_a_lost_stream_goes_on_as_if_every_block_had_been_read(tellers, text, data):
    """Replicas that say the same in other pieces, or something else, each lost somewhere; blocks joined."""
    blocks: list[list[bytes]] = []
    for number, (other, lost_at, _) in enumerate(tellers):
        pieces = other if data.draw(st.booleans()) else _cut(text, data.draw(st.lists(st.integers(0, 8))))
        blocks.append(stream(pieces, number, alive=data.draw(st.booleans()))[:lost_at])
    blocks.append(stream(_cut(text, data.draw(st.lists(st.integers(0, 8)))), 9))
    joined = [
        parcels(held, cuts) for held, (_, _, cuts) in zip(blocks, [*tellers, (0, 0, [2, 3])], strict=True)
    ]
    assert played(joined) == read(blocks)


def _cut(text: str, places: Iterable[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends) if text[start:end]]


@pytest.mark.parametrize("most", [0, 300, 10**9])
def test_choices_are_told_apart_however_much_is_kept_unread(monkeypatch, most):
    monkeypatch.setattr(resuming, "UNREAD_BYTES", most)
    one, two = stream(["on", "e"], 1)[:-2], stream(["tw", "o"], 1, choice=1)[:-2]
    before = [one[0], two[0], two[1], one[1]]
    again = [one[0], one[1], one[2], two[0], two[1], two[2]]
    out, differed = played([[b"".join(before)], [b"".join(again)]])
    assert not differed
    said: dict[int, str] = {}
    for block in out.split(b"\n\n")[:-1]:
        (choice,) = json.loads(block.removeprefix(b"data: "))["choices"]
        said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
    assert said == {0: "one", 1: "two"}


def test_what_came_before_other_words_is_told():
    first = stream(["one"], 1)
    other = stream(["one", " tw", "o"], 2)
    told = Told()
    assert b"".join(told.pass_on(b"".join(first[:2]))) == b"".join(first[:2])
    told.begin_again()
    assert b" tw" in b"".join(told.pass_on(b"".join(other[:3])))
    told.begin_again()
    passing = told.pass_on(b"".join([KEEP_ALIVE, *stream(["one", " no"], 3)]))
    assert next(passing) == KEEP_ALIVE
    with pytest.raises(DifferentError):
        next(passing)
