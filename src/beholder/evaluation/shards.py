"""One run shared by several processes: each asks its part, the last to finish writes the score."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError
from beholder.evaluation.answers import Line, claim, read_whole_lines
from beholder.evaluation.task import Row


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"shard {self.index}/{self.count} does not exist; they are counted from 0 to {self.count - 1}"
            )

    @classmethod
    def read(cls, text: str) -> Shard:
        """From "i/n"."""
        index, slash, count = text.partition("/")
        if not slash or not index.isdigit() or not count.isdigit():
            raise ConfigError(f"--shard {text!r} should be i/n, such as 0/4 for the first of four")
        return cls(int(index), int(count))

    @classmethod
    def of_environment(cls) -> Shard | None:
        """This process's part under torchrun, or none where it runs alone."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(os.environ["RANK"]), count) if count > 1 and "RANK" in os.environ else None

    @property
    def folder(self) -> str:
        """Where the part's answers go, below the folder of the whole run."""
        return f"shard-{self.index}-of-{self.count}"

    def part(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Consecutive rows, as the originals part them: all parts but the last ones have the same size."""
        size = math.ceil(len(rows) / self.count)
        return rows[self.index * size : (self.index + 1) * size]


def gather(
    out: Path, shard: Shard, rows: Sequence[Row], identity: Mapping[str, Any]
) -> dict[str, Line] | None:
    """The answers of all parts, by row; none while a row is without its answer, or for another part to tell.

    The part that was written to last tells, so two that end at the same moment do not write one file. All
    parts must be of one run: answers of other weights or questions are an error.
    """
    answers: dict[str, Line] = {}
    written: list[tuple[int, int]] = []
    for index in range(shard.count):
        folder = out / Shard(index, shard.count).folder
        path = folder / "answers.jsonl"
        if path.exists():
            claim(folder / "run.json", identity)
            written.append((path.stat().st_mtime_ns, index))
            answers |= {line["id"]: line for line in read_whole_lines(path) if "error" not in line}
    if not all(row["id"] in answers for row in rows) or max(written)[1] != shard.index:
        return None
    claim(out / "run.json", identity)
    return answers
