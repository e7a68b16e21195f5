"""What is wrong with a recipe's data, row by row, before a run finds out; and how one row is trained.

Nothing is mended here: a report lists what was found, and a manifest, which a run reads, notes which rows it
holds for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from beholder.core.errors import InputError
from beholder.processing.labels import IGNORED, trains_nothing
from beholder.training.collate import Collator
from beholder.training.data import (
    MARKER,
    ROW,
    answers_nothing,
    mask_of,
    open_below,
    row_messages,
    row_name,
    row_pictures,
)
from beholder.training.rows import has_messages

MANIFEST = "data-manifest.json"
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
BUCKET = 256
SHOWN = 5
# What is told of data that can be trained on as it is.
HARMLESS = (
    "repeated row", "repeated picture", "wrong extension", "begins with an answer, which is left out",
    "longer, and cut", "longer, and left out",
)  # fmt: skip

Rows = tuple[Sequence[dict[str, Any]], Path]


@dataclass
class Report:
    """Problems by kind, each with the rows or files it was found in; and what the data is like."""

    rows: int = 0
    pictures: int = 0
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lengths: Counter[int] = field(default_factory=Counter)

    @property
    def holds(self) -> bool:
        """Whether every row can be trained on as the recipe says; what is `HARMLESS` is told all the same."""
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """The kinds of problems that a run would stop at."""
        return [kind for kind in self.problems if kind not in HARMLESS]

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


def check(sources: Sequence[Rows], processor: Any = None, limits: Collator | None = None) -> Report:
    """Decode every picture and read every row; with a processor, count tokens and trained tokens as well, and
    tell what a run's `limits` would do with each row.
    """
    report = Report()
    files: dict[Path, str] = {}  # picture -> hash of its bytes
    seen: dict[bytes, str] = {}
    for rows, folder in sources:
        for row in rows:
            report.rows += 1
            name = row_name(row)
            text = json.dumps({key: value for key, value in row.items() if key != "id"}, sort_keys=True)
            if (before := seen.setdefault(hashlib.sha256(text.encode()).digest(), name)) is not name:
                report.problems["repeated row"].append(f"{name} is {before}")
            broken = check_pictures(row, folder, files, report)
            if not broken:
                check_row(row, folder, processor, limits, report)
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


def check_row(
    row: dict[str, Any], folder: Path, processor: Any, limits: Collator | None, report: Report
) -> None:
    """Marks, turns, tokens and trained tokens of a row whose pictures can be shown."""
    turns = () if has_messages(row) else row["conversations"]
    answers = [turn["value"] for turn in turns if turn.get("from") == "gpt"]
    if any(MARKER in text for text in answers):
        report.problems["picture in an answer"].append(row_name(row))
        return
    try:
        messages = row_messages(row, folder)
    except InputError as error:
        report.problems["wrong row"].append(str(error))
        return
    if answers_nothing(row):
        report.problems["begins with an answer, which is left out"].append(row_name(row))
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
    if trains_nothing(sample["labels"]):
        report.problems["nothing trained"].append(row_name(row))
    elif limits is not None:
        check_length(row, sample, limits, report)


def check_length(row: dict[str, Any], sample: dict[str, Any], limits: Collator, report: Report) -> None:
    """What a run would do with the row for its length."""
    told = f"{row_name(row)} has {limits.length(sample)} tokens"
    try:
        kept = limits.fitted(sample | {ROW: row_name(row)})
    except InputError as error:
        report.problems["too long"].append(str(error))
        return
    if kept is None:
        report.problems["longer, and left out"].append(told)
    elif len(kept["input_ids"]) < len(sample["input_ids"]):
        report.problems["longer, and cut"].append(told)


def write_manifest(
    sources: Sequence[Rows], report: Report, place: Path, limits: Mapping[str, Any] | None = None
) -> None:
    """Note what was checked: per source the number of rows and a hash of them all; and for which limits."""
    told = [
        {
            "pictures": str(folder),
            "rows": len(rows),
            "sha256": rows_hash(rows),
        }
        for rows, folder in sources
    ]
    problems = {kind: len(places) for kind, places in report.problems.items()}
    noted = {"sources": told, "problems": problems, "faults": report.faults, "limits": limits}
    place.write_text(json.dumps(noted, indent=1) + "\n", "utf-8")


def rows_hash(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 over all rows in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(json.dumps(row, sort_keys=True).encode())
    return total.hexdigest()


def confirm_manifest(sources: Sequence[Rows], place: Path, limits: Mapping[str, Any] | None = None) -> None:
    """Raise an `InputError` if a manifest is there and the rows are not those that were checked, were checked
    for other limits, or have what a run would stop at.
    """
    if not place.is_file():
        return
    manifest = json.loads(place.read_text("utf-8"))
    noted = manifest["sources"]
    for number, ((rows, _), told) in enumerate(zip(sources, noted, strict=False), start=1):
        if len(sources) != len(noted) or rows_hash(rows) != told["sha256"]:
            raise InputError(
                f"source {number} has {len(rows)} rows which are not the {told['rows']} that `beholder data "
                f"check` saw ({place}); check them again, or remove the file"
            )
    if (checked := manifest.get("limits")) is not None and checked != limits:
        raise InputError(
            f"`beholder data check` was for {told_limits(checked)} ({place}) and this run is for "
            f"{told_limits(limits or {})}; check again, or remove the file"
        )
    if faults := manifest.get("faults"):
        told = ", ".join(f"{kind}: {manifest['problems'][kind]}" for kind in faults)
        raise InputError(
            f"`beholder data check` found rows that a run stops at ({told}; {place}); mend them and check "
            "again, or remove the file to start all the same"
        )


def told_limits(limits: Mapping[str, Any]) -> str:
    """Limits as one types them."""
    return " ".join(f"{key}={value}" for key, value in limits.items()) or "no limits"


def show(row: dict[str, Any], folder: Path, processor: Any) -> str:
    """One row as it is trained: its tokens, trained ones in brackets, and how many of each there are."""
    sample = processor.encode_training(row_messages(row, folder))
    trained = sum(label != IGNORED for label in sample["labels"])
    strip = mask_of(sample["input_ids"], sample["labels"], processor, longest=10**6)
    return f"{row_name(row)}: {len(sample['input_ids'])} tokens, {trained} trained\n{strip}"
