"""Captions with boxes in them: which phrase each box belongs to.

The rule is that of CogVLM's parser (utils/parser.py, 8bd8be9), which takes noun chunks from spaCy: a phrase
begins where the last chunk begins that ends before the box. Here a chunk is found by the word that opens it
or by the preposition before it, and three things differ: a phrase said twice keeps both its boxes, what is no
box of four numbers is left out with the reason, and nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from beholder.core.types import Box
from beholder.grounding.boxes import Fractions, Frame, to_pixels

GROUP = re.compile(r"\[\[([^\]]+)\]\]")
# Words that open a noun phrase, and words that end one.
OPENING = frozenset(
    "a an the this that these those his her its their my your our some any each every another both all no "
    "one two three four five six seven eight nine ten eleven twelve several many few".split()
)
CLOSING = frozenset(
    "is are was were be been being has have had do does did in on at of to from by for with beside "
    "behind under above near next and or but while as then which who whose what where when how it he she "
    "they there here "
    "looking standing sitting wearing holding riding walking chases leaves answer".split()
)
# Behind one of these a noun phrase begins even without a word that opens it: "with red hair".
LEADING = frozenset("in on at of from by with beside behind under above near and or".split())
MARKS = frozenset(".,;:!?()[]{}\"'")
WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")

Chunk = tuple[int, int]


@dataclass(frozen=True)
class Phrase:
    """A phrase in lower case, its boxes as fractions of the picture, and where their group stands."""

    text: str
    boxes: tuple[Fractions, ...]
    start: int
    end: int
    reason: str = ""

    def pixels(self, width: int, height: int, picture: int = 0) -> tuple[Box, ...]:
        """Its boxes in pixels of a picture of that size, which models of this form see stretched."""
        frame = Frame.picture(width, height)
        return tuple(to_pixels(box, frame, picture) for box in self.boxes)


def read_phrases(text: str, chunks: Sequence[Chunk] | None = None) -> list[Phrase]:
    """Every group of boxes with its phrase, in order. `chunks` are noun chunks from elsewhere."""
    nouns = noun_chunks(text) if chunks is None else chunks
    found: list[Phrase] = []
    for match in GROUP.finditer(text):
        boxes, reason = _boxes(match[1])
        phrase = _phrase(text, match.start(), nouns)
        found.append(Phrase(phrase, boxes, match.start(), match.end(), reason))
    return found


def _phrase(text: str, box: int, chunks: Sequence[Chunk]) -> str:
    start = max((begin for begin, end in chunks if end <= box), default=0)
    phrase = text[start:box].strip()
    # A question is a phrase as a whole: answers of this family may begin with what was asked.
    return (text[:box].strip() if phrase.endswith("?") else phrase).lower()


def _boxes(group: str) -> tuple[tuple[Fractions, ...], str]:
    boxes: list[Fractions] = []
    reasons: list[str] = []
    for part in group.split(";"):
        numbers = part.split(",")
        if not part.replace(",", "").isdecimal():
            reasons.append(f"{part.strip()[:40]!r} is not made of whole numbers")
        elif len(numbers) != 4 or not all(numbers):
            reasons.append(f"{part!r} has {sum(map(bool, numbers))} numbers instead of 4")
        else:
            x1, y1, x2, y2 = (int(number) / 1000 for number in numbers)
            if x1 > x2 or y1 > y2:
                reasons.append(f"{part!r} has its corners in the wrong order")
            else:
                boxes.append((min(x1, 1.0), min(y1, 1.0), min(x2, 1.0), min(y2, 1.0)))
    return tuple(boxes), "; ".join(reasons)


def noun_chunks(text: str) -> list[Chunk]:
    """Noun phrases by their opening word, each up to a word that cannot belong to it, a mark or a box."""
    chunks: list[Chunk] = []
    start: int | None = None
    end, before = 0, ""
    # A box is blanked out by marks, so that it ends a phrase and no offset moves.
    for word in WORD.finditer(GROUP.sub(lambda match: "[" * len(match[0]), text)):
        lower = word[0].lower()
        ends = lower in OPENING or lower in CLOSING or lower in MARKS
        if start is not None and ends:
            chunks.append((start, end))
            start = None
        if lower in OPENING or (before in LEADING and not ends and lower[0].isascii()):
            start = word.start()
        end, before = word.end(), lower
    return [*chunks, (start, end)] if start is not None else chunks
