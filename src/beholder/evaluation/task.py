"""What a benchmark is: rows, the prompt, the score of one answer, and the figures over all scores.

A task knows neither models nor files of answers; `run.py` brings it together with them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.core.errors import InputError
from beholder.core.types import Box, Message
from beholder.evaluation.intervals import Interval

if TYPE_CHECKING:
    from PIL.Image import Image

# JSON values; at least "id" (unique), "image" (a path below the data folder) and "question".
Row = Mapping[str, Any]
Scores = Mapping[str, Any]  # JSON values: what `summary` needs to know of one answer


@dataclass(frozen=True)
class Reply:
    """What the model said, the boxes in it as pixels of the picture, and what it cost."""

    text: str
    boxes: tuple[Box, ...] = ()
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. `version` rises with every change that could move a score; `protocol` tells the rules.

    `rows` reads the file `source` of a data folder; `draw` writes the folder of a benchmark that is drawn.
    """

    name: str
    version: int
    protocol: str
    source: str
    rows: Callable[[Path], Sequence[Row]]
    score: Callable[[Reply, Row], Scores]
    summary: Callable[[Sequence[Scores]], Mapping[str, Interval]]
    prompt: str = "{question}"
    max_tokens: int = 32
    draw: Callable[[Path], None] | None = None

    @property
    def measure(self) -> str:
        """Name and version, as records carry them."""
        return f"{self.name} v{self.version}"

    def prepare(self, data: Path) -> None:
        """Draw a benchmark that can be drawn, unless its folder is there; it appears when it is whole."""
        if self.draw and not data.exists():
            unfinished = data.with_name(f"{data.name}.drawing")
            self.draw(unfinished)
            os.rename(unfinished, data)

    def load(self, data: Path) -> Sequence[Row]:
        """All rows of a data folder. Answers are kept under their ids, so ids that repeat are an error."""
        path = data / self.source
        if not path.exists():
            raise InputError(
                f"{data} has no {self.source}, so it is not the data of {self.name}; mend --data"
            )
        rows = self.rows(path)
        if not rows:
            raise InputError(f"{path} holds no rows for {self.name}")
        if len({row["id"] for row in rows}) != len(rows):
            raise InputError(f"{data}: some rows of {self.name} have the same id; each needs its own")
        return rows

    def conversation(self, row: Row, picture: Image) -> tuple[Message, ...]:
        """What the model is shown and asked for one row."""
        return (Message.user(picture, self.prompt.format_map(row)),)


def fingerprint(rows: Sequence[Row]) -> str:
    """A hash of questions and truths: two runs that have the same one were asked the same."""
    text = json.dumps([dict(row) for row in rows], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
