"""Which row an answer made elsewhere belongs to. The originals differ in it, and scores depend on it.

Some go through the rows and look answers up, others go through the answers and look rows up; then an answer
given twice counts twice, and rows without an answer do not count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from beholder.core.errors import InputError
from beholder.core.types import Box
from beholder.evaluation.files import Said
from beholder.evaluation.task import Pair, Pairing, Reply, Row

Key = Callable[[Said], str]
RowKey = Callable[[Row], str]

log = logging.getLogger("beholder")


def reply_of(said: Said) -> Reply:
    """An answer of a file as a reply; one that a run of ours wrote brings its boxes with it."""
    boxes: Any = said.line.get("boxes") if said.is_ours else None
    try:
        return Reply(
            said.text,
            tuple(Box(**box) for box in boxes or ()),
            prompt=said.prompt,
            tells_boxes=boxes is not None,
            answer_id=str(said.line.get("answer_id", "")),
        )
    except TypeError as error:
        raise InputError(f"the boxes of the answer to {said.id!r} are not as a run writes them") from error


def own_id(said: Said) -> str:
    """The id that the answer file gives."""
    return said.id


def row_id(row: Row) -> str:
    """The id of a row."""
    return row["id"]


def by_row(
    key: Key = own_id, row_key: RowKey = row_id, missing: Literal["error", "empty"] = "error"
) -> Pairing:
    """Every row once; the last of several answers counts. A row without one is an error, or empty."""

    def pair(answers: Sequence[Said], rows: Sequence[Row]) -> list[Pair]:
        found = {said.id if said.is_ours else key(said): said for said in answers}
        if repeated := len(answers) - len(found):
            log.warning("%d answers are to rows that have another; the last of a row counts", repeated)
        pairs: list[Pair] = []
        absent: list[str] = []
        for row in rows:
            said = found.get(row["id"]) or found.get(row_key(row))
            if said is None:
                absent.append(row_key(row))
            pairs.append((row, Reply("", is_missing=True) if said is None else reply_of(said)))
        if absent and (missing == "error" or len(absent) == len(rows)):
            raise InputError(
                f"{len(absent)} of {len(rows)} rows have no answer, first {absent[0]!r}; every row needs one"
            )
        return pairs

    return pair


def by_answer(
    key: Key = own_id, row_key: RowKey = row_id, unknown: Callable[[Said], Row] | None = None
) -> Pairing:
    """Every answer once, also where a row has two. Without a row it is an error, or `unknown` makes one."""

    def pair(answers: Sequence[Said], rows: Sequence[Row]) -> list[Pair]:
        found = {row_key(row): row for row in rows}
        found |= {row["id"]: row for row in rows}
        pairs: list[Pair] = []
        for said in answers:
            row = found.get(said.id if said.is_ours else key(said))
            if row is None and unknown:
                row = unknown(said)
            if row is None:
                raise InputError(
                    f"the answer to {said.id!r} belongs to no row; are answers and data of one benchmark?"
                )
            pairs.append((row, reply_of(said)))
        if not pairs:
            raise InputError("there is no answer to score")
        absent = {row["id"] for row in rows} - {row["id"] for row, _ in pairs}
        if absent:
            told = "%d of %d rows have no answer and do not count, as in the original"
            log.warning(told, len(absent), len(rows))
        return pairs

    return pair
