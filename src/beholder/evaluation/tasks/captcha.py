"""Captchas: what is written must be told exactly, as CogVLM's own evaluation of its example counts.

The data folder is one that `beholder data split` or `beholder data captchas` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beholder.core.errors import InputError
from beholder.evaluation.files import read_json_lines
from beholder.evaluation.intervals import Interval, proportion
from beholder.evaluation.task import Reply, Row, Scores, Task

NEEDED = ("id", "image", "question", "answer")


def read_rows(path: Path) -> list[Row]:
    """The lines of `captchas.jsonl`."""
    rows = list(read_json_lines(path))
    for number, row in enumerate(rows, 1):
        if missing := [key for key in NEEDED if key not in row]:
            raise InputError(f"{path}, line {number} lacks {', '.join(missing)}")
    return rows


def score(reply: Reply, row: Row) -> Scores:
    """Equal, equal but for case, and how many letters there are."""
    said, expected = reply.text.strip(), str(row["answer"])
    return {
        "right": said == expected,
        "any_case": said.casefold() == expected.casefold(),
        "expected": expected,
        "letters": len(expected),
    }


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """The shares of captchas that were read, in all and for each length."""
    figures = {
        "accuracy": proportion([[one["right"]] for one in scores]),
        "accuracy_any_case": proportion([[one["any_case"]] for one in scores]),
    }
    for letters in sorted({one["letters"] for one in scores}):
        chosen = [[one["right"]] for one in scores if one["letters"] == letters]
        figures[f"letters.{letters}"] = proportion(chosen)
    return figures


CAPTCHA = Task(
    name="captcha",
    version=1,
    protocol="the whole text, exactly, as evaluate_demo.py counts it (THUDM/CogVLM, 8bd8be9)",
    source="captchas.jsonl",
    rows=read_rows,
    score=score,
    summary=summary,
    max_tokens=16,
    origin="`beholder data captchas` draws it, `beholder data split` makes it of pictures that are here",
)
