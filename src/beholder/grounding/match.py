"""Which words of an answer its boxes belong to. Where noun phrases stand is told by the caller."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from beholder.grounding.boxes import Fractions, parse_boxes

GROUP = re.compile(r"\[\[([^\]]+)\]\]")
THOUSANDTHS = 1000

Span = tuple[int, int]  # characters of the answer: the first, and one past the last


@dataclass(frozen=True)
class Phrase:
    """Words of an answer and the boxes behind them, in fractions of the frame."""

    text: str
    boxes: tuple[Fractions, ...]


def match_phrases(text: str, noun_chunks: Sequence[Span] = ()) -> list[Phrase]:
    """Every group of boxes with the noun phrase before it, in reading order.

    Without a noun phrase since the last group, all words since then are taken. Groups without a box that can
    be read are left out; the same phrase may come again.
    """
    phrases: list[Phrase] = []
    after = 0  # the end of the last group
    for group in GROUP.finditer(text):
        boxes = tuple(parse_boxes(group[0]))
        if not boxes:
            continue
        begin = max(
            (start for start, end in noun_chunks if after <= start and end <= group.start()), default=after
        )
        phrases.append(Phrase(text[begin : group.start()].strip(), boxes))
        after = group.end()
    return phrases


def original_phrases(text: str, noun_chunks: Sequence[Span] = ()) -> dict[str, list[list[float]]]:
    """Phrases and boxes as CogVLM's own parser has them, oddities kept.

    A phrase may hold an earlier box, one that ends in "?" begins at the beginning, a repeated one replaces
    the first, boxes have as many numbers as were written, doubled commas are a ValueError. Follows
    utils/parser.py (THUDM/CogVLM, 8bd8be9).
    """
    found: dict[str, list[list[float]]] = {}
    for group in GROUP.finditer(text):
        begin = max((start for start, end in noun_chunks if end <= group.start()), default=0)
        phrase = text[begin : group.start()].strip()
        if phrase.endswith("?"):
            phrase = text[: group.start()].strip()
        parts = [part for part in group[1].split(";") if part.replace(",", "").isdigit()]
        found[phrase.lower()] = [[int(number) / THOUSANDTHS for number in part.split(",")] for part in parts]
    return found
