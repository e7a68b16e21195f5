"""Segments to ids with placeholders expanded, and ids back to text piece by piece. Knows no template."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from beholder.core.errors import ConfigError, InputError
from beholder.processing.templates import Segment

REPLACEMENT = "\ufffd"
# Four bytes make the longest character; what is longer and still broken will not mend.
MOST_HELD_TOKENS = 16

_literal_tokenizers: WeakKeyDictionary[Any, tuple[int, Tokenizer]] = WeakKeyDictionary()
_literal_lock = threading.Lock()


@dataclass(frozen=True)
class Encoded:
    """Ids of one prompt, which of them are trained, and (start, length) of every picture's placeholders."""

    input_ids: list[int] = field(default_factory=list[int])
    trained: list[bool] = field(default_factory=list[bool])
    picture_spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def append(self, ids: Iterable[int], trained: Iterable[bool]) -> None:
        """Add tokens at the end."""
        self.input_ids.extend(ids)
        self.trained.extend(trained)


def encode(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    slots_per_picture: Sequence[int],
    placeholder_id: int,
) -> Encoded:
    """Ids of a rendered prompt; the n-th picture takes `slots_per_picture[n]` placeholders.

    Neighbouring text segments are tokenised as one string, so the ids are those of the whole rendered string.
    A token is trained if its first character lies in a trained segment.
    """
    places = sum(segment.kind == "picture" for segment in segments)
    if places != len(slots_per_picture):
        raise InputError(
            f"the prompt has places for {places} pictures and {len(slots_per_picture)} were given"
        )
    encoded = Encoded()
    slots = iter(slots_per_picture)
    run: list[Segment] = []
    for segment in segments:
        if segment.kind == "text":
            run.append(segment)
            continue
        _append_text(encoded, run, tokenizer)
        run.clear()
        if segment.kind == "picture":
            length = next(slots)
            encoded.picture_spans.append((len(encoded.input_ids), length))
            encoded.append([placeholder_id] * length, [False] * length)
        else:
            encoded.append([control_id(tokenizer, segment.text)], [segment.trained])
    _append_text(encoded, run, tokenizer)
    return encoded


def control_id(tokenizer: PreTrainedTokenizerBase, literal: str) -> int:
    """The id of one special token, by its literal."""
    token = tokenizer.convert_tokens_to_ids(literal)
    if not isinstance(token, int) or tokenizer.convert_ids_to_tokens(token) != literal:
        raise ConfigError(f"the tokenizer has no token {literal}; it belongs to another model")
    return token


def _append_text(encoded: Encoded, run: Sequence[Segment], tokenizer: PreTrainedTokenizerBase) -> None:
    text = "".join(segment.text for segment in run)
    if not text:
        return
    trained = [segment.trained for segment in run for _ in segment.text]
    tokens = literal_tokenizer(tokenizer).encode(text, add_special_tokens=False)
    encoded.append(tokens.ids, (trained[start] for start, _ in tokens.offsets))


def literal_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer's engine that takes every text literally: it never produces special tokens.

    The engine keeps that choice, padding and truncation as shared state; switching them on the caller's own
    engine for each call would not be safe with threads. The post-processor goes because it trims offsets.
    The copy is made anew when tokens were added since.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigError(f"{type(tokenizer).__name__} is not a fast tokenizer; a tokenizer.json is needed")
    size = len(tokenizer)
    with _literal_lock:
        known = _literal_tokenizers.get(tokenizer)
        if known is None or known[0] != size:
            copy = Tokenizer.from_str(backend.to_str())
            copy.no_padding()
            copy.no_truncation()
            copy.post_processor = None  # type: ignore[assignment]
            copy.encode_special_tokens = True
            known = _literal_tokenizers[tokenizer] = (size, copy)
        return known[1]


def left_pad(rows: Sequence[Sequence[int]], fill: int) -> list[list[int]]:
    """Rows of one length; generation continues on the right, so the filling stands on the left."""
    width = max(len(row) for row in rows)
    return [[fill] * (width - len(row)) + list(row) for row in rows]


class TextStream:
    """Ids to text while they come: never half a character, never the beginning of a stop string.

    `push` returns what is safe to show, `finish` the rest. `text` is all of it together, `stopped` tells that
    a stop string was reached; the stop string itself and what follows are not part of the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self.text = ""
        self._engine = literal_tokenizer(tokenizer)
        self._stop = tuple(stop)
        self._held_text = ""
        # Decoding starts a little before the new ids: some tokenizers write the first token differently.
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token_id: int) -> str:
        """Take one id; the text that became certain."""
        if self.stopped:
            return ""
        self._ids.append(token_id)
        piece = self._new_text()
        held = len(self._ids) - self._shown
        if not piece or (piece.endswith(REPLACEMENT) and held < MOST_HELD_TOKENS):
            return ""
        del self._ids[: self._shown]
        self._shown = len(self._ids)
        return self._release(piece)

    def finish(self) -> str:
        """No more ids come; what was held back."""
        if self.stopped:
            return ""
        rest = self._new_text()
        self._ids.clear()
        self._shown = 0
        piece = self._release(rest)
        rest, self._held_text = self._held_text, ""
        if not self.stopped:
            self.text += rest
            piece += rest
        return piece

    def _new_text(self) -> str:
        """What the ids that are not shown yet add to the text."""
        before, everything = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        if everything.startswith(before):
            return everything[len(before) :]
        # Byte tokens are decoded run by run: a broken character can spoil a whole one that is shown already.
        return self._decode(self._ids[self._shown :])

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        return self._engine.decode(ids, skip_special_tokens=True)

    def _release(self, piece: str) -> str:
        """Text up to the first stop string, or up to what may be the beginning of one."""
        text = self._held_text + piece
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            safe, self._held_text = text[: min(found)], ""
        else:
            certain = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
            safe, self._held_text = text[:certain], text[certain:]
        self.text += safe
        return safe


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
