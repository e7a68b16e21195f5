"""The files of the original evaluations: questions, annotations and answers read, submissions written.

Answers may come from an original's own answer file (JSON lines with question_id and text), from a file that
was made for upload (one JSON list or object), or from a run of ours (id and answer).
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from beholder.core.errors import InputError

# A line that has both "question_id" and "id" is a review, whose own number "id" is.
ID_KEYS = ("question_id", "id", "questionId", "qid", "sent_id", "image_id", "image", "index")
TEXT_KEYS = ("answer", "text", "prediction", "caption", "response")
# What pandas, which the originals read tables with, takes for a missing cell.
BLANK = frozenset(
    (
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
        "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    )
)  # fmt: skip

log = logging.getLogger("beholder")

csv.field_size_limit(2**30)  # pictures stand in cells of these tables


@dataclass(frozen=True)
class Said:
    """One line of an answer file: whose answer it is, what was said, and the line itself."""

    id: str
    text: str
    line: Mapping[str, Any]

    @property
    def original_id(self) -> Any:
        """The id as the file has it, a number or a text."""
        return self.line.get("question_id", self.id)

    @property
    def prompt(self) -> str:
        """What was asked, where the file tells it."""
        return str(self.line.get("prompt", self.line.get("question", "")))

    @property
    def is_ours(self) -> bool:
        """Whether the line was written by a run of ours, so that its id is a row's."""
        return "id" in self.line and "question_id" not in self.line


def read_answers(path: Path, skip_broken: bool = False) -> list[Said]:
    """All answers of a file, in order. Lines that are no JSON are an error, or counted and skipped."""
    text = _read(path)
    try:
        whole: Any = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, list):
        lines = cast("list[Mapping[str, Any]]", whole)
    elif isinstance(whole, dict) and _is_by_name(told := cast("dict[str, Any]", whole)):
        lines = [{"question_id": name, "answer": said} for name, said in told.items()]
    else:
        lines = read_json_lines(path, skip_broken)
    return [_said(line, path) for line in lines]


def _is_by_name(told: Mapping[str, Any]) -> bool:
    """Whether it maps ids to answers, and is not one answer by itself."""
    told_otherwise = {*TEXT_KEYS, *ID_KEYS, "error"}
    return not told.keys() & told_otherwise and all(isinstance(value, str) for value in told.values())


def _said(line: Any, path: Path) -> Said:
    told = cast("dict[str, Any]", line) if isinstance(line, dict) else {}
    if "error" in told and not told.keys() & set(TEXT_KEYS):
        raise InputError(f"{path}: row {told.get('id')!r} failed and has no answer; run its evaluation again")
    name = next((told[key] for key in ID_KEYS if told.get(key) is not None), None)
    # Our own lines and VQA results have "answer", the originals' have "text" and may lack the other.
    text = next((told[key] for key in TEXT_KEYS if told.get(key) is not None), None)
    if name is None or text is None:
        keys = ", ".join(sorted(told)) if told else type(cast("object", line)).__name__
        raise InputError(
            f"{path} holds something that is no answer (it has {keys}); a line needs one of "
            f"{', '.join(ID_KEYS)} and one of {', '.join(TEXT_KEYS)}, and neither may be null"
        )
    return Said(str(name), text if isinstance(text, str) else json.dumps(text), told)


def read_json_lines(path: Path, skip_broken: bool = False) -> list[Mapping[str, Any]]:
    """One JSON object for each line; empty lines do not count."""
    lines: list[Mapping[str, Any]] = []
    broken = 0
    for number, text in enumerate(_read(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if not skip_broken:
                raise InputError(f"{path}, line {number} is not JSON: {text[:60]!r}") from error
            broken += 1
    if broken:
        log.warning(
            "%s: %d lines are not JSON and were skipped, as the original converter does", path, broken
        )
    return lines


def read_json(path: Path) -> Any:
    """One JSON value."""
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def _read(path: Path) -> str:
    """The text of a file. A mark of the byte order, which Windows' editors put in front, is no part of it."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def find_one(folder: Path, *patterns: str) -> Path:
    """Of the first pattern that finds any file the last by name."""
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found[-1]
    raise InputError(f"{folder} holds no {' and no '.join(patterns)}")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a TSV with a header line; quoted cells may hold line ends."""
    # Line ends within cells stay as they are, so the text is not read as other files are.
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return list(csv.DictReader(file, delimiter="\t"))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no table with tabs in UTF-8: {error}") from error


def is_blank(cell: str | None) -> bool:
    """Whether a cell counts as missing for the originals, which also take an option "None" for none."""
    return cell is None or cell in BLANK or cell.lower() in ("nan", "none")


def data_url(base64_text: str) -> str:
    """A picture that stands in a table, as an address that pictures are opened by."""
    kind = "jpeg" if base64_text.startswith("/9j/") else "png"
    return f"data:image/{kind};base64,{base64_text}"


def json_text(value: Any, indent: int | None = None) -> bytes:
    """JSON as Python's own `json.dump` writes it by default, which is what the originals' files hold."""
    return json.dumps(value, indent=indent).encode()


def json_lines(values: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON lines as the originals write them."""
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def number_or_text(name: str) -> int | str:
    """An id as its file had it: a number where it is one."""
    return int(name) if name.isdigit() and (name == "0" or name[0] != "0") else name


def columns_without(rows: Sequence[Mapping[str, str]], *dropped: str) -> list[str]:
    """The column names of a table less some."""
    return [name for name in rows[0] if name not in dropped] if rows else []
