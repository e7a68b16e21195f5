"""Text to ids as SentencePiece's own library and the tokenizers built around it do it, generation by
generation.

SentencePiece marks the beginning of a text with a blank of its own (the "dummy prefix"). What counts as the
beginning after a special token has changed over the years, and models were trained with each of the rules.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from beholder.core.errors import ConfigError
from beholder.processing.templates import Segment
from beholder.processing.tokens import Encoded

BLANK = "\u2581"
# After a special token within one text: a blank again ("legacy"), none ("current"), or the first piece
# is found
# with a blank and then loses it ("stripped": transformers 4.31 with legacy off).
Marking = Literal["legacy", "current", "stripped"]

_engines: WeakKeyDictionary[Any, tuple[int, Tokenizer]] = WeakKeyDictionary()
_lock = threading.Lock()


def marking_of(tokenizer: PreTrainedTokenizerBase) -> Marking:
    """The rule that a tokenizer's own settings ask for."""
    legacy = getattr(tokenizer, "legacy", None)
    if legacy is None:
        legacy = cast("Any", tokenizer).init_kwargs.get("legacy")
    if legacy is None:
        before: dict[str, Any] = json.loads(backend_of(tokenizer).to_str()).get("pre_tokenizer") or {}
        legacy = before.get("prepend_scheme") != "first"
    return "legacy" if legacy else "current"


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's engine."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigError(f"{type(tokenizer).__name__} has no tokenizers engine; open it with AutoTokenizer")
    return backend


def piece_engine(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's merges alone: no blanks are added, no special token is seen in a text.

    Made anew when tokens were added since.
    """
    with _lock:
        known = _engines.get(tokenizer)
        if known is None or known[0] != len(tokenizer):
            told = json.loads(backend_of(tokenizer).to_str())
            told |= dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "truncation", "padding"))
            told["added_tokens"] = []
            known = _engines[tokenizer] = (len(tokenizer), Tokenizer.from_str(json.dumps(told)))
        return known[1]


@dataclass(frozen=True)
class PieceEncoder:
    """Texts to ids under one rule for blanks. `adds_blank` is off for vocabularies without a dummy prefix."""

    tokenizer: PreTrainedTokenizerBase
    marking: Marking = "current"
    adds_blank: bool = True

    def __post_init__(self) -> None:
        if self.marking not in get_args(Marking):
            raise ConfigError(f"blanks are marked by {self.marking!r}; known: {', '.join(get_args(Marking))}")

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, marking: Marking | None = None) -> PieceEncoder:
        """With the tokenizer's own rule where none is given."""
        stored = cast("Any", tokenizer).init_kwargs.get("add_prefix_space")
        return cls(tokenizer, marking or marking_of(tokenizer), stored is not False)

    def pieces(self, text: str, *, is_first: bool) -> tuple[list[int], list[int]]:
        """Ids of one stretch of text, and where in the text each of them begins.

        `is_first` says that nothing, not even a special token, stands before it in its chunk.
        """
        if not text:
            return [], []
        engine = piece_engine(self.tokenizer)
        marked = text.replace(" ", BLANK)
        if self.marking == "stripped" and not is_first and not text.startswith((" ", BLANK)):
            return self._stripped(engine, marked)
        blank = BLANK if self.adds_blank and (is_first or self.marking != "current") else ""
        encoded = engine.encode(blank + marked, add_special_tokens=False)
        return encoded.ids, [max(start - len(blank), 0) for start, _ in encoded.offsets]

    def _stripped(self, engine: Tokenizer, marked: str) -> tuple[list[int], list[int]]:
        """The pieces of a text with a blank before it; the first of them without the blank."""
        encoded = engine.encode(BLANK + marked, add_special_tokens=False)
        ids, starts = list(encoded.ids), [max(start - 1, 0) for start, _ in encoded.offsets]
        first = encoded.tokens[0]
        if not first.startswith(BLANK):
            return ids, starts
        if len(first) == 1:
            return ids[1:], starts[1:]
        token = self.tokenizer.convert_tokens_to_ids(first[1:])
        return [token if isinstance(token, int) else 0, *ids[1:]], starts

    def added_vocab(self) -> dict[str, int]:
        """The tokens added to the vocabulary, special ones among them, with their ids."""
        return cast("Any", self.tokenizer).get_added_vocab()

    def special_id(self, literal: str) -> int | None:
        """The id of a special token, or None where this tokenizer has no such token."""
        token = self.tokenizer.convert_tokens_to_ids(literal)
        if not isinstance(token, int) or self.tokenizer.convert_ids_to_tokens(token) != literal:
            return None
        return token if literal in self.added_vocab() else None

    def encode(self, segments: Sequence[Segment], slots: Sequence[int], placeholder_id: int) -> Encoded:
        """Ids of a rendered prompt; the n-th picture takes `slots[n]` placeholders.

        A picture divides the prompt into chunks, each of which is a text of its own. A control literal that
        the tokenizer does not know is text, as it was for the published models. A token is trained if its
        first character lies in a trained segment.
        """
        encoded, run, counts = Encoded(), Run(), iter(slots)
        for segment in segments:
            special = self.special_id(segment.text) if segment.kind == "control" else None
            if segment.kind == "picture":
                self._append(encoded, run)
                run = Run()
                length = next(counts)
                encoded.picture_spans.append((len(encoded.input_ids), length))
                encoded.append([placeholder_id] * length, [False] * length)
            elif special is not None:
                self._append(encoded, run)
                run = Run(is_first=False)
                encoded.append([special], [segment.trained])
            else:
                run.add(segment)
        self._append(encoded, run)
        return encoded

    def _append(self, encoded: Encoded, run: Run) -> None:
        ids, starts = self.pieces(run.text, is_first=run.is_first)
        encoded.append(ids, (run.trained[start] for start in starts))


class Run:
    """Neighbouring text segments, tokenised as one."""

    def __init__(self, *, is_first: bool = True) -> None:
        self.text = ""
        self.trained: list[bool] = []
        self.is_first = is_first

    def add(self, segment: Segment) -> None:
        """One more segment."""
        self.text += segment.text
        self.trained += [segment.trained] * len(segment.text)
