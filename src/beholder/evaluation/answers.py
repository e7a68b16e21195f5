"""The file of answers: one JSON line for each row, written as a run goes on and read when it goes on again.

At any moment, also after a kill, the file holds at most one whole answer for each row. A half-written last
line and rows that failed are removed when the file is opened again, and so are asked again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from beholder.core.errors import InputError

Line = dict[str, Any]  # "id" and either "answer" or "error"

log = logging.getLogger("beholder")


class AnswerFile:
    """Answers of one run of one task in `folder`; a folder that holds another run's answers is refused."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / "answers.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder / "run.json", identity)
        self.answers: dict[str, Line] = {}
        self.failures: dict[str, str] = {}
        if self.path.exists():
            self._reopen()
        self._file: TextIO = self.path.open("a", encoding="utf-8")

    def _reopen(self) -> None:
        """Keep the whole answers of an earlier start and drop the rest, in one atomic step."""
        for line in read_whole_lines(self.path):
            if "error" not in line:
                self.answers[line["id"]] = line
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("".join(_text(line) for line in self.answers.values()), encoding="utf-8")
        os.replace(fresh, self.path)

    def add(self, lines: Iterable[Line]) -> None:
        """Write answers (or errors) through to the file."""
        for line in lines:
            self._file.write(_text(line))
            if "error" in line:
                self.failures[line["id"]] = line["error"]
            else:
                self.answers[line["id"]] = line
        self._file.flush()

    def close(self) -> None:
        """Close the file; what was added is already there."""
        self._file.close()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_whole_lines(path: Path) -> list[Line]:
    """The lines of a file of answers; a half-written last one is left out."""
    # Not splitlines(): it also breaks at characters that JSON leaves in an answer as they are.
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if rest:
        log.info("%s: the last line is half written; its row is asked again", path)
    return [_parse(text, path) for text in lines]


def claim(path: Path, identity: Mapping[str, Any]) -> None:
    """Note whose answers the folder holds, or make sure that they are this run's."""
    text = json.dumps(dict(identity), ensure_ascii=False, indent=1, sort_keys=True)
    if not path.exists():
        fresh = path.with_suffix(".tmp")
        fresh.write_text(text + "\n", encoding="utf-8")
        os.replace(fresh, path)
        return
    told = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(key for key in told.keys() | identity.keys() if told.get(key) != identity.get(key))
    if differing:
        pairs = ", ".join(f"{key} was {told.get(key)!r} and is {identity.get(key)!r}" for key in differing)
        raise InputError(f"{path.parent} holds the answers of another run ({pairs}); choose another --out")


def _parse(text: str, path: Path) -> Line:
    try:
        line: Line | None = json.loads(text)
    except json.JSONDecodeError:
        line = None
    if not isinstance(line, dict) or "id" not in line or ("answer" in line) == ("error" in line):
        raise InputError(
            f"{path} holds a line that is not an answer: {text.strip()[:80]!r}; repair or remove the file"
        )
    return line


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
