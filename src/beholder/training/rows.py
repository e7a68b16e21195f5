"""Rows of a training file, each read when it is asked for: what a run holds is where each of them stands.

A set of some gigabytes then takes sixteen bytes of memory a row, in each process that reads ahead as well;
while a `.json` is opened its whole text is held, of a `.jsonl` one line.
"""

from __future__ import annotations

import codecs
import json
import os
from abc import abstractmethod
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast, overload

from beholder.core.errors import InputError

Row = dict[str, Any]
BLANK = " \t\n\r"  # what JSON takes for blank
BROKEN = (json.JSONDecodeError, UnicodeDecodeError)


class Rows(Sequence[Row]):
    """Rows by their numbers, also negative ones, and by slices."""

    @abstractmethod
    def row(self, number: int) -> Row:
        """One row; IndexError where there is none."""

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self.row(number) for number in range(*at.indices(len(self)))]
        return self.row(at)


class RowFile(Rows):
    """The rows of a `.json` list or a `.jsonl` file.

    All of them are looked at once, when the file is opened, and none is kept. InputError: a row is no object
    with turns, or (when it is read) the file is no longer what it was then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts, self.ends = array("q"), array("q")
        with path.open("rb") as file:
            self.was = state_of(file)
        for start, end in _lines(path) if path.suffix == ".jsonl" else _elements(path):
            self.starts.append(start)
            self.ends.append(end)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, number: int) -> Row:
        """One row, read from the file."""
        start, end = self.starts[number], self.ends[number]
        with self.open() as file:
            file.seek(start)
            return json.loads(file.read(end - start))

    def __iter__(self) -> Iterator[Row]:
        with self.open() as file:
            for start, end in zip(self.starts, self.ends, strict=True):
                file.seek(start)
                yield json.loads(file.read(end - start))

    @contextmanager
    def open(self) -> Generator[BinaryIO]:
        """The file; `InputError` if it is no longer the one that was looked at."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path} cannot be read any more: {error}") from error
        with file:
            if state_of(file) != self.was:
                raise InputError(
                    f"{self.path} has changed since it was opened; start again to read it as it is"
                )
            yield file


class Chosen(Rows):
    """Some rows of others by their numbers, in the order given; a number may come more than once."""

    def __init__(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        self.rows, self.numbers = rows, array("q", numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, number: int) -> Row:
        """One row, read from the others."""
        return self.rows[self.numbers[number]]


def read_rows(path: Path) -> RowFile:
    """Rows of a `.json` list or a `.jsonl` file."""
    if not path.is_file():
        raise InputError(f"no training rows at {path}; give a .json or .jsonl file in LLaVA's form")
    return RowFile(path)


def state_of(file: BinaryIO) -> tuple[int, int, int]:
    """Which file it is, its size and the time of its last change."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def has_messages(row: Row) -> bool:
    """Whether a row is in OpenAI's form; else it is in LLaVA's."""
    return isinstance(row.get("messages"), list)


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
            _check(path, row, f"line {number}")
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
            json.loads(text)
            raise InputError(f"{path} is no list; expected a list of rows or one row per line")
        decoder = json.JSONDecoder()
        at, number = _next(text, at + 1), 0
        while number or text[at : at + 1] != "]":
            row, end = decoder.raw_decode(text, at)
            number += 1
            _check(path, row, f"row {number}")
            start = byte + _size(text, counted, at)
            byte, counted = start + _size(text, at, end), end
            yield start, byte
            at = _next(text, end)
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = _next(text, at + 1)
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


def _check(path: Path, row: Any, place: str) -> None:
    """Raise an `InputError` if this is no row: who reads rows need not ask what kind of values they hold."""
    if not isinstance(row, dict) or not (has_messages(row) or isinstance(row.get("conversations"), list)):
        raise InputError(
            f"{path}: {place} is wrong; every row must be an object with a 'conversations' or 'messages' list"
        )
    told = cast("Row", row)
    if has_messages(told):
        if not all(isinstance(turn, dict) for turn in told["messages"]):
            raise InputError(f"{path}: {place} has a message that is no object")
        return
    for turn in told["conversations"]:
        if not isinstance(turn, dict) or not isinstance(cast("Row", turn).get("value"), str):
            raise InputError(f"{path}: {place} has a turn that is no object with a text as its 'value'")
    image = told.get("image")
    names = cast("list[Any]", image) if isinstance(image, list) else [image]
    if image is not None and not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: {place} has an 'image' that is neither a name nor a list of names")


def _refuse(path: Path, error: ValueError, where: str = "") -> NoReturn:
    raise InputError(
        f"{path} is not valid JSON ({where}{error}); expected a list of rows or one row per line"
    ) from error
