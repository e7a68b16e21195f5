"""The lock file: which commit of each hub id this machine uses, and the files that were fetched of it.

It lies in the download cache (or where BEHOLDER_LOCK says). A model whose files are all there is opened
without asking the hub, and stays the same when its repository changes; `beholder fetch --update` moves it on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from beholder.core.errors import CheckpointError

LOCK_VARIABLE = "BEHOLDER_LOCK"
LOCK_FILE = "beholder.lock.json"
VERSION = 1
COMMIT = re.compile(r"[0-9a-f]{40}")
SHOWN = 3  # how many files an error lists


@dataclass(frozen=True)
class Pin:
    """One commit of one repository and the sizes in bytes of the files that belong to it here."""

    commit: str
    files: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(self.files.values())

    def missing(self, folder: Path) -> list[str]:
        """The files that are not in the folder, or not as long as they were."""
        return [name for name, size in self.files.items() if _size(folder / name) != size]


def lock_path() -> Path:
    """Where the lock file is."""
    from huggingface_hub import constants

    given = os.environ.get(LOCK_VARIABLE)
    return Path(given).expanduser() if given else Path(constants.HF_HUB_CACHE) / LOCK_FILE


def read_pins() -> dict[str, Pin]:
    """All pins by key; none where there is no lock file yet."""
    path = lock_path()
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']} is not {VERSION}")
        return {key: Pin(pin["commit"], pin["files"]) for key, pin in told["pins"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the lock file {path} cannot be read ({error}); mend it, or remove it and run `beholder fetch` "
            "for the models that it named"
        ) from error


def read_pin(key: str) -> Pin | None:
    """The pin of one key."""
    return read_pins().get(key)


def write_pin(key: str, pin: Pin) -> None:
    """Add or replace one pin; readers see the file as it was or as it is, never half of it."""
    path = lock_path()
    pins = {name: asdict(known) for name, known in read_pins().items()} | {key: asdict(pin)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(
        json.dumps({"version": VERSION, "pins": dict(sorted(pins.items()))}, indent=2) + "\n",
        encoding="utf-8",
    )
    os.replace(partial, path)


def pin_of(folder: Path, patterns: Sequence[str]) -> Pin | None:
    """What a downloaded snapshot is; None for a folder that is not named by a commit."""
    if not COMMIT.fullmatch(folder.name):
        return None
    found = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
    return Pin(folder.name, {str(path.relative_to(folder)): path.stat().st_size for path in found})


def snapshot_folder(name: str, commit: str, kind: str = "model") -> Path:
    """Where the download cache keeps a commit of a repository; `kind` is model or dataset."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return (
        Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind) / "snapshots" / commit
    )


def told_missing(names: Sequence[str], total: int) -> str:
    """Which of a snapshot's files are not there, for an error."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} of its {total} files are missing: {', '.join(names[:SHOWN])}{more}"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
