"""Rows of a training file, each read when it is asked for: what a run holds is where each of them stands.

A set of some gigabytes then takes sixteen bytes of memory a row, in each process that reads ahead as well.
"""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, overload

from beholder.core.errors import InputError

Row = dict[str, Any]
BLANK = " \t\n\r"  # what JSON takes for blank
BROKEN = (json.JSONDecodeError, UnicodeDecodeError)


class RowFile(Sequence[Row]):
    """The rows of a `.json` list or a `.jsonl` file.

    All of them are looked at once, when the file is opened, and none is kept. InputError: a row is no object
    with turns, or (when it is read) the file is no longer what it was then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts, self.ends = array("q"), array("q")
        self.was = state_of(path)
        for start, end in _lines(path) if path.suffix == ".jsonl" else _elements(path):
            self.starts.append(start)
            self.ends.append(end)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        start, end = self.starts[at], self.ends[at]
        self.refuse_change()
        with self.path.open("rb") as file:
            file.seek(start)
            return json.loads(file.read(end - start))

    def __iter__(self) -> Iterator[Row]:
        self.refuse_change()
        with self.path.open("rb") as file:
            for start, end in zip(self.starts, self.ends, strict=True):
                file.seek(start)
                yield json.loads(file.read(end - start))

    def refuse_change(self) -> None:
        """Raise an `InputError` if the file is no longer the one that was looked at."""
        if state_of(self.path) != self.was:
            raise InputError(f"{self.path} has changed since it was opened; start again to read it as it is")


class Chosen(Sequence[Row]):
    """Some rows of others by their numbers, in the order given; a number may come more than once."""

    def __init__(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        self.rows, self.numbers = rows, array("q", numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self.rows[number] for number in self.numbers[at]]
        return self.rows[self.numbers[at]]


def read_rows(path: Path) -> RowFile:
    """Rows of a `.json` list or a `.jsonl` file."""
    if not path.is_file():
        raise InputError(f"no training rows at {path}; give a .json or .jsonl file in LLaVA's form")
    return RowFile(path)


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change: what another file, or a longer one, would not have."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read any more: {error}") from error
    return found.st_size, found.st_mtime_ns


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """First and last byte of each line that holds a row."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            start, end = end, end + len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except BROKEN as error:
                _refuse(path, error, f"in its line {number}, ")
            _check(path, row)
            yield start, end


def _elements(path: Path) -> Iterator[tuple[int, int]]:
    """First and last byte of each element of a list."""
    try:
        data = path.read_bytes()
        byte = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        text = data.decode("utf-8-sig")
        del data
        at, counted = _next(text, 0), 0
        if text[at : at + 1] != "[":
            _check(path, [json.loads(text)])
        decoder = json.JSONDecoder()
        at = _next(text, at + 1)
        while text[at : at + 1] != "]":
            row, end = decoder.raw_decode(text, at)
            _check(path, row)
            start = byte + _size(text, counted, at)
            byte, counted = start + _size(text, at, end), end
            yield start, byte
            at = _next(text, end)
            if text[at : at + 1] == ",":
                at = _next(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        if _next(text, at + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, at + 1)
    except BROKEN as error:
        _refuse(path, error)


def _next(text: str, at: int) -> int:
    """The next place that is not blank."""
    while text[at : at + 1] and text[at] in BLANK:
        at += 1
    return at


def _size(text: str, start: int, end: int) -> int:
    """Bytes of a part of a text."""
    return len(text[start:end].encode())


def _check(path: Path, row: Any) -> None:
    if not isinstance(row, dict) or not ("conversations" in row or "messages" in row):
        raise InputError(f"{path}: every row must be an object with a 'conversations' or 'messages' list")


def _refuse(path: Path, error: ValueError, where: str = "") -> NoReturn:
    raise InputError(
        f"{path} is not valid JSON ({where}{error}); expected a list of rows or one row per line"
    ) from error
