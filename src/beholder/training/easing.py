"""Easier rows first: a source may keep to pictures with little on them and to turns with short answers.

A model that starts from nothing learns what a colour is from a picture of two things and an answer of one
word; boxes, descriptions and lettering are mostly noise to it as long as it cannot find what is asked about.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from beholder.core.errors import InputError
from beholder.training.data import MARKER, row_name
from beholder.training.rows import read_rows
from beholder.training.stages import Source

log = logging.getLogger("beholder")


def rows_of(source: Source) -> Sequence[dict[str, Any]]:
    """A source's rows, all or those that its limits leave; how many that are is logged."""
    rows = read_rows(source.rows)
    kept: Sequence[dict[str, Any]] = rows
    if source.most_objects is not None or source.most_letters is not None:
        kept = [row for row in kept if is_plain(row, source.most_objects, source.most_letters)]
    if source.longest_answer is not None:
        shortened = (with_short_answers(row, source.longest_answer) for row in kept)
        kept = [row for row in shortened if row["conversations"]]
    if len(kept) < len(rows):
        log.info("%s: %d of %d rows are used", source.rows, len(kept), len(rows))
    if not kept:
        raise InputError(
            f"{source.rows}: no row is left by {source.model_dump(mode='json', exclude_none=True)}"
        )
    return kept


def is_plain(row: dict[str, Any], most_objects: int | None, most_letters: int | None) -> bool:
    """Whether at most so many objects and letters are on the row's picture; objects have colours."""
    if "objects" not in row:
        raise InputError(f"row {row_name(row)} has no 'objects' list, so its source cannot choose by it")
    objects = sum("colour" in thing for thing in row["objects"])
    letters = len(row["objects"]) - objects
    return (most_objects is None or objects <= most_objects) and (
        most_letters is None or letters <= most_letters
    )


def with_short_answers(row: dict[str, Any], longest: int) -> dict[str, Any]:
    """The row with only those pairs of turns whose answer is short; marks move to the first of them."""
    turns = row["conversations"]
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    if len(turns) % 2 or any((q.get("from"), a.get("from")) != ("human", "gpt") for q, a in pairs):
        raise InputError(
            f"row {row_name(row)} is no list of human and gpt turns in pairs, which longest_answer needs"
        )
    marks = "".join(f"{MARKER}\n" * question["value"].count(MARKER) for question, _ in pairs)
    kept: list[dict[str, Any]] = []
    for question, answer in pairs:
        if len(answer["value"]) <= longest:
            text = question["value"].replace(f"{MARKER}\n", "").replace(MARKER, "")
            kept += [question | {"value": text if kept else marks + text}, answer]
    return row | {"conversations": kept}
