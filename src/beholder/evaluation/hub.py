"""Benchmarks that live on the Hugging Face hub: fetched once, kept as JSON lines and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from beholder.core.errors import InputError, MissingExtraError

Fetch = Callable[[str, list[str]], Path]  # repository and patterns -> the folder with the files
Record = Mapping[str, Any]


def fetch_files(repository: str, patterns: list[str]) -> Path:
    """The files of a data set, through the hub's own cache."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=patterns))


def read_parquet(path: Path) -> Iterator[Record]:
    """The records of a parquet file."""
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError.of("reading data sets of the hub (parquet)", "eval") from error
    for batch in parquet.ParquetFile(path).iter_batches():  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        yield from batch.to_pylist()  # pyright: ignore[reportUnknownMemberType]


def fetch_split(
    repository: str,
    split: str,
    data: Path,
    fetch: Fetch = fetch_files,
    read: Callable[[Path], Iterator[Record]] = read_parquet,
) -> Path:
    """A split as DATA/<split>.jsonl, its pictures beside it; what is there already is not fetched again."""
    target = data / f"{split}.jsonl"
    if target.exists():
        return target
    folder = fetch(repository, [f"*{split}*"])
    files = sorted(path for path in folder.rglob(f"*{split}*") if path.suffix in (".parquet", ".jsonl"))
    if not files:
        raise InputError(f"{repository} has no files of a split {split!r}")
    (data / "images").mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".tmp")
    with fresh.open("w", encoding="utf-8") as file:
        readers = ((read if path.suffix == ".parquet" else _json_lines, path) for path in files)
        records = (record for reader, path in readers for record in reader(path))
        for number, record in enumerate(records, 1):
            file.write(json.dumps(_without_pictures(record, data, number), ensure_ascii=False) + "\n")
    fresh.rename(target)
    return target


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _without_pictures(record: Record, data: Path, number: int) -> dict[str, Any]:
    """A record whose pictures (bytes, as the hub's image features have them) are files with their names."""
    row = str(record.get("id", record.get("question_id", number))).replace("/", "_")
    told: dict[str, Any] = {}
    for key, value in record.items():
        content = cast("dict[str, Any]", value).get("bytes") if isinstance(value, dict) else None
        if isinstance(content, bytes):
            ending = "jpg" if content.startswith(b"\xff\xd8") else "png"
            name = f"images/{row}-{key}.{ending}"
            (data / name).write_bytes(content)
            told[key] = name
        else:
            told[key] = value
    return told
