"""Benchmarks whose authors publish them on the Hugging Face hub: fetched once, kept as files tasks read."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from beholder.core.errors import InputError, MissingExtraError
from beholder.core.fetching import Pin, pin_of, read_pin, snapshot_folder, write_pin
from beholder.evaluation.task import settle

Fetch = Callable[[str, list[str]], Path]  # repository and patterns -> the folder with the files
Record = Mapping[str, Any]

log = logging.getLogger("beholder")


def fetch_files(repository: str, patterns: list[str]) -> Path:
    """The folder with the files of a data set, in the hub's own cache.

    The commit that is fetched first is pinned in the lock file, as those of models are: questions stay the
    same when their authors change them, and no network is needed for what is there.
    """
    from huggingface_hub import errors, snapshot_download  # pyright: ignore[reportUnknownVariableType]

    key = f"datasets/{repository}"
    pin = read_pin(key)
    commit = None if pin is None else pin.commit
    if pin is not None and not pin.missing(folder := snapshot_folder(repository, pin.commit, "dataset")):
        if all(any(folder.rglob(pattern)) for pattern in patterns):
            return folder
    try:
        told = snapshot_download(repository, repo_type="dataset", revision=commit, allow_patterns=patterns)
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"the data set {repository} is not (completely) in the download cache, and the hub cannot be "
            "reached (no network, or HF_HUB_OFFLINE is set); connect once, or give its files with --data"
        ) from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"the data set {repository} is gated: accept its terms at "
            f"https://huggingface.co/datasets/{repository}, then run `hf auth login`"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"the data set {repository} could not be fetched from the hub: {reason}; "
            "give its files with --data"
        ) from error
    _remember(key, pin_of(Path(told), [*patterns, *(pin.files if pin else ())]))
    return Path(told)


def _remember(key: str, pin: Pin | None) -> None:
    if pin is None:
        return
    try:
        write_pin(key, pin)
    except PermissionError as error:  # a cache that others keep
        log.info("%s is not pinned: %s", key, error)


def copy_files(repository: str, patterns: Sequence[str], data: Path, fetch: Fetch = fetch_files) -> None:
    """Files of a data set as its authors named them; those of the last pattern when all others are there."""
    folder = fetch(repository, list(patterns))
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found:
            raise InputError(f"{repository} has no {pattern}; give the files with --data")
        for path in found:
            target = data / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f"{target.name}.{os.getpid()}")
            shutil.copyfile(path, fresh)
            os.replace(fresh, target)


def unpack(repository: str, archive: str, target: Path, fetch: Fetch = fetch_files) -> None:
    """A zip archive of a data set as a folder, without the folders around all its files; not if it is there.

    The folder appears when it is whole. A member that would lie outside of it is an error.
    """
    if target.exists():
        return
    path = fetch(repository, [archive]) / archive
    if not path.is_file():
        raise InputError(f"{repository} has no {archive}; give the files with --data")
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(path) as file:
            members = [one for one in file.infolist() if not one.is_dir() and not _is_foreign(one.filename)]
            names = [PurePosixPath(one.filename) for one in members]
            if bad := next((name for name in names if name.is_absolute() or ".." in name.parts), None):
                raise InputError(f"{path} holds {str(bad)!r}, which would be written outside of {target}")
            around = posixpath.commonpath([str(name.parent) for name in names])
            for member, name in zip(members, names, strict=True):
                place = unfinished / name.relative_to(around)
                place.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as inside, place.open("wb") as outside:
                    shutil.copyfileobj(inside, outside)
        settle(unfinished, target)
    except InputError:
        raise
    except (zipfile.BadZipFile, ValueError) as error:
        raise InputError(f"{path} is no zip archive with files: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_foreign(name: str) -> bool:
    """What macOS adds to archives."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name == ".DS_Store"


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
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
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
