"""What a download, a copy or a crash leaves in a folder: halves of files, pointers, damaged files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from beholder.checkpoints.findings import Finding, some
from beholder.checkpoints.reader import INDEX, PICKLED_INDEX, read_file
from beholder.core.errors import CheckpointError

UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp", ".download", ".lock.tmp")
POINTER = b"version https://git-lfs"
POINTER_BYTES = 1024  # a pointer is shorter
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin", "mm_projector*.bin", "non_lora*.bin")
NEVER_EMPTY = (".json", ".safetensors", ".bin", ".model", ".pt", ".pth", ".jinja")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<kind>safetensors|bin)")
DOWNLOADS = Path(".cache") / "huggingface" / "download"  # where huggingface_hub keeps notes in a local folder
FETCH = "fetch the file again, with `hf download` or `git lfs pull`"


def weight_files(folder: Path) -> list[Path]:
    """The files beside each other that hold tensors of a model."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in WEIGHTS)
    ]


def look_at_files(folder: Path) -> list[Finding]:
    """Everything that shows from names, sizes and first bytes."""
    return [*_halves(folder), *_shards(folder), *_small_files(folder), *_weights(folder)]


def _halves(folder: Path) -> Iterator[Finding]:
    unfinished = [
        path.name
        for place in (folder, folder / DOWNLOADS)
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.name.endswith(UNFINISHED)
    ]
    if unfinished:
        yield Finding(
            f"a download did not come to its end: {some(unfinished)}",
            "start the download again, which goes on where it ended; if all files are there, remove these",
        )
    gone = [path.name for path in sorted(folder.iterdir()) if path.is_symlink() and not path.exists()]
    if gone:
        yield Finding(f"links point to files that are not there: {some(gone)}", FETCH)


def _shards(folder: Path) -> Iterator[Finding]:
    """Numbered files of which some are missing, or that have no index."""
    groups: dict[tuple[str, str, str], set[int]] = {}
    for path in sorted(folder.iterdir()):
        if found := SHARD.fullmatch(path.name):
            key = (found["stem"], found["count"], found["kind"])
            groups.setdefault(key, set()).add(int(found["number"]))
    for (stem, count, kind), numbers in groups.items():
        if lacking := sorted(set(range(1, int(count) + 1)) - numbers):
            names = [f"{stem}-{number:05}-of-{count}.{kind}" for number in lacking]
            yield Finding(f"{len(names)} of {int(count)} numbered files are missing: {some(names)}", FETCH)
        index = INDEX if kind == "safetensors" else PICKLED_INDEX
        if not (folder / index).is_file():
            yield Finding(f"there are files {stem}-*-of-{count}.{kind} and no {index}", FETCH)
    if len(stems := {(stem, kind) for stem, _, kind in groups}) < len(groups):
        yield Finding(
            f"files of two downloads are mixed: {some(sorted(f'{stem}.{kind}' for stem, kind in stems))} "
            "are numbered in two ways",
            "remove those that the index does not name",
        )


def _small_files(folder: Path) -> Iterator[Finding]:
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        if size == 0 and path.suffix in NEVER_EMPTY:
            yield Finding(f"{path.name} is empty", FETCH)
        elif size < POINTER_BYTES and path.read_bytes().startswith(POINTER):
            # The weight files among them say so themselves.
            if path not in weight_files(folder) or path.suffix != ".safetensors":
                yield Finding(
                    f"{path.name} is a Git LFS pointer and not the file itself", "run `git lfs pull`"
                )
        elif path.suffix == ".json" and size:
            yield from _json(path)


def _json(path: Path) -> Iterator[Finding]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        if path.name != "config.json":  # opening it says so
            yield Finding(f"{path.name} is not valid JSON ({error})", FETCH)
        return
    if not path.name.endswith(".index.json") or not isinstance(told, dict):
        return
    index = cast("dict[str, Any]", told)
    match index.get("metadata"), cast("dict[str, Any] | None", index.get("weight_map")):
        case {"total_size": int(total)}, dict(placed):
            yield from _sizes(path, total, {str(name) for name in placed.values()})
        case _:
            return


def _sizes(index: Path, total: int, files: set[str]) -> Iterator[Finding]:
    """The files together must hold at least what the index counts."""
    places = [index.parent / name for name in sorted(files)]
    if all(place.is_file() for place in places):
        have = sum(place.stat().st_size for place in places)
        if have < total:
            yield Finding(
                f"{index.name} counts {total} bytes of weights and its {len(places)} files have {have}", FETCH
            )


def _weights(folder: Path) -> Iterator[Finding]:
    for path in weight_files(folder):
        if path.stat().st_size == 0:
            continue
        try:
            read_file(path)
        except CheckpointError as error:
            yield Finding(str(error), _remedy(str(error)))
            continue
        if path.suffix == ".safetensors" and (refusal := _refusal(path)):
            yield Finding(f"{path} is damaged: safetensors refuses it ({refusal})", FETCH)


def _refusal(path: Path) -> str | None:
    """What the library that will read the numbers says against a file: its rules are stricter than JSON's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError as error:
        return str(error)


def _remedy(problem: str) -> str:
    if "holds more than tensors (" in problem:
        return "loading it elsewhere may run code; take the file from its authors or, better, as .safetensors"
    return FETCH
