"""What is wrong with a recipe's data, row by row, before a run finds out; and how one row is trained.

Nothing is mended here: a report lists what was found, and a manifest notes which rows and files it holds for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from beholder.core.errors import InputError
from beholder.processing.labels import IGNORED
from beholder.training.data import (
    MARKER,
    mask_of,
    open_below,
    row_messages,
    row_name,
    row_pictures,
    row_texts,
)

MANIFEST = "data-manifest.json"
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
BUCKET = 256
SHOWN = 5

Rows = tuple[list[dict[str, Any]], Path]


@dataclass
class Report:
    """Problems by kind, each with the rows or files it was found in; and what the data is like."""

    rows: int = 0
    pictures: int = 0
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lengths: Counter[int] = field(default_factory=Counter)

    @property
    def holds(self) -> bool:
        """Whether every row can be trained on; repeated pictures and rows are told and no fault."""
        return not any(kind for kind in self.problems if kind not in ("repeated row", "repeated picture"))

    def told(self) -> str:
        """The report in words."""
        lines = [f"{self.rows} rows, {self.pictures} pictures"]
        for kind, places in sorted(self.problems.items()):
            more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
            lines.append(f"{kind}: {len(places)}: {'; '.join(places[:SHOWN])}{more}")
        most = max(self.lengths.values(), default=1)
        for start, count in sorted(self.lengths.items()):
            lines.append(f"{start:6}-{start + BUCKET - 1:<6} tokens {count:8} {'#' * -(-40 * count // most)}")
        return "\n".join(lines)


def check(sources: Sequence[Rows], processor: Any = None, longest: int | None = None) -> Report:
    """Decode every picture and read every row; with a processor, count tokens and trained tokens as well."""
    report = Report()
    files: dict[Path, str] = {}  # picture -> hash of its bytes
    seen: dict[str, str] = {}
    for rows, folder in sources:
        for row in rows:
            report.rows += 1
            name = row_name(row)
            text = json.dumps({key: value for key, value in row.items() if key != "id"}, sort_keys=True)
            if (before := seen.setdefault(text, name)) is not name:
                report.problems["repeated row"].append(f"{name} is {before}")
            broken = check_pictures(row, folder, files, report)
            if not broken:
                check_row(row, folder, processor, longest, report)
    first: dict[str, Path] = {}
    for path, digest in files.items():
        if first.setdefault(digest, path) != path:
            report.problems["repeated picture"].append(f"{path.name} is {first[digest].name}")
    report.pictures = len(files)
    return report


def check_pictures(row: dict[str, Any], folder: Path, files: dict[Path, str], report: Report) -> bool:
    """Look at a row's pictures, each file once; True if one cannot be shown."""
    broken = False
    for source in row_pictures(row):
        if source.startswith(("data:", "http://", "https://")):
            continue
        path = folder / source
        if path in files:
            continue
        if not path.is_file():
            report.problems["missing file"].append(f"{path} (row {row_name(row)})")
            broken = True
            continue
        try:
            open_below(folder, source)
            with Image.open(path) as opened:
                kind = opened.format
        except (InputError, UnidentifiedImageError, OSError) as error:
            report.problems["dead file"].append(f"{path}: {error}")
            broken = True
            continue
        wanted = FORMATS.get(path.suffix.lower())
        if wanted != kind:
            report.problems["wrong extension"].append(f"{path} is {kind}")
        files[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return broken


def check_row(row: dict[str, Any], folder: Path, processor: Any, longest: int | None, report: Report) -> None:
    """Marks, turns, tokens and trained tokens of a row whose pictures can be shown."""
    try:
        messages = row_messages(row, folder)
    except InputError as error:
        report.problems["wrong row"].append(str(error))
        return
    texts = row_texts(row)
    if any(MARKER in text for text in texts[1::2]) and "conversations" in row:
        report.problems["picture in an answer"].append(row_name(row))
    if processor is None:
        if not any(message.role == "assistant" and message.text.strip() for message in messages):
            report.problems["nothing trained"].append(row_name(row))
        return
    try:
        sample = processor.encode_training(messages)
    except InputError as error:
        report.problems["wrong row"].append(f"{row_name(row)}: {error}")
        return
    length = len(sample["input_ids"])
    report.lengths[length // BUCKET * BUCKET] += 1
    if all(label == IGNORED for label in sample["labels"]):
        report.problems["nothing trained"].append(row_name(row))
    if longest is not None and length > longest:
        report.problems["too long"].append(f"{row_name(row)} has {length} tokens")


def write_manifest(sources: Sequence[Rows], report: Report, place: Path) -> None:
    """Note what was checked: per source the number of rows and a hash of them all."""
    told = [
        {
            "pictures": str(folder),
            "rows": len(rows),
            "sha256": rows_hash(rows),
        }
        for rows, folder in sources
    ]
    problems = {kind: len(places) for kind, places in report.problems.items()}
    place.write_text(json.dumps({"sources": told, "problems": problems}, indent=1) + "\n", "utf-8")


def rows_hash(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 over all rows in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(json.dumps(row, sort_keys=True).encode())
    return total.hexdigest()


def confirm_manifest(sources: Sequence[Rows], place: Path) -> None:
    """Raise an `InputError` if a manifest is there and the rows are not those that were checked."""
    if not place.is_file():
        return
    noted = json.loads(place.read_text("utf-8"))["sources"]
    for number, ((rows, _), told) in enumerate(zip(sources, noted, strict=False), start=1):
        if len(sources) != len(noted) or rows_hash(rows) != told["sha256"]:
            raise InputError(
                f"source {number} has {len(rows)} rows which are not the {told['rows']} that `beholder data "
                f"check` saw ({place}); check them again, or remove the file"
            )


def show(row: dict[str, Any], folder: Path, processor: Any) -> str:
    """One row as it is trained: its tokens, trained ones in brackets, and how many of each there are."""
    sample = processor.encode_training(row_messages(row, folder))
    trained = sum(label != IGNORED for label in sample["labels"])
    strip = mask_of(sample["input_ids"], sample["labels"], processor, longest=10**6)
    return f"{row_name(row)}: {len(sample['input_ids'])} tokens, {trained} trained\n{strip}"
