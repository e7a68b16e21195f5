"""From what a person types to a folder on this machine: a folder as it is, a hub id fetched and cached.

What was fetched is pinned (see `fetching`): from then on the same commit is used, also without a network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from beholder.core.errors import CheckpointError
from beholder.core.fetching import Pin, pin_of, read_pin, snapshot_folder, told_missing, write_pin

TEXT = ["*.json", "*.model", "*.txt", "*.jinja"]
# What changes a base model may be pickled although the repository has safetensors as well.
CHANGES = ["non_lora_trainables.bin", "mm_projector.bin", "adapter_model.bin"]
TEXT_AND_SAFETENSORS = [*TEXT, "*.safetensors", *CHANGES]
TOKENIZER = [
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "config.json",
]
Wanted = Literal["model", "tokenizer"]
log = logging.getLogger("beholder")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
_may_download: ContextVar[bool] = ContextVar("may_download", default=True)


@contextmanager
def without_downloads() -> Generator[None]:
    """What is looked for meanwhile is found on this machine or not at all."""
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


def find_checkpoint(
    name_or_path: str | Path, *, download: bool = True, what: Wanted = "model", update: bool = False
) -> Path:
    """The folder of a checkpoint; `owner/name` or `owner/name@revision` comes from the Hugging Face hub.

    With `download` off, a hub id is found only if it has been downloaded before. `what` may be its tokenizer
    alone. `update` asks the hub for the newest commit although another one is pinned.
    """
    given = str(name_or_path)
    folder = Path(given).expanduser()
    if given and folder.is_dir():  # the path of an empty name is the current folder
        return folder
    if given and folder.exists():
        raise CheckpointError(f"{given} is a file; give the folder that holds config.json and the weights")
    if isinstance(name_or_path, Path) or not HUB_ID.fullmatch(given):
        raise CheckpointError(
            f"there is no folder {given!r}, and it is not a hub id of the form owner/name; "
            "`beholder models` lists what is known"
        )
    return _fetch(given, download and _may_download.get(), what, update)


def lock_key(name: str, what: Wanted = "model") -> str:
    """What a hub id is called in the lock file."""
    return name if what == "model" else f"{name}#{what}"


def _fetch(given: str, download: bool, what: Wanted, update: bool) -> Path:
    """Download (or find in the cache); every way this fails is one sentence."""
    from huggingface_hub import errors

    name, _, revision = given.partition("@")
    pin = None if update else read_pin(lock_key(given, what))
    if pin is not None and not pin.missing(folder := snapshot_folder(name, pin.commit)):
        return folder
    try:
        return _pinned(given, name, revision if pin is None else pin.commit, download, what)
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {given!r} and no such model on the hub "
            "(or it is private: run `hf auth login`)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if pin is not None:
            raise _in_part(given, name, pin, what) from error
        if not download:
            raise CheckpointError(
                f"there is no folder {given!r}, and as a hub id it is not (completely) in the download "
                f"cache; run `{_command(given, what)}`"
            ) from error
        raise CheckpointError(
            f"there is no folder {given!r}, it is not (completely) in the download cache, and the hub "
            "cannot be reached (no network, or HF_HUB_OFFLINE is set); "
            f"give a local folder, or connect once and run `{_command(given, what)}`"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(f"{given!r} could not be fetched from the hub: {reason}") from error


def _command(given: str, what: Wanted) -> str:
    """What to type to have it."""
    return f"beholder fetch {given}" + (" --only tokenizer" if what == "tokenizer" else "")


def _in_part(given: str, name: str, pin: Pin, what: Wanted) -> CheckpointError:
    absent = pin.missing(snapshot_folder(name, pin.commit))
    return CheckpointError(
        f"{given} is in the download cache only in part ({told_missing(absent, len(pin.files))}) and the hub "
        f"cannot be reached; connect and run `{_command(given, what)}`"
    )


def _pinned(given: str, name: str, revision: str, download: bool, what: Wanted) -> Path:
    """The snapshot, remembered with its files."""
    folder, patterns = _snapshot(name, revision or None, download, what)
    key = lock_key(given, what)
    if (pin := pin_of(folder, patterns)) is not None and pin != read_pin(key):
        try:
            write_pin(key, pin)
        except PermissionError as error:  # a cache that others keep
            log.info("%s is not pinned: %s", given, error)
    return folder


def _snapshot(name: str, revision: str | None, download: bool, what: Wanted) -> tuple[Path, list[str]]:
    """All small files and the weights, pickled ones only where the model has no others; or a tokenizer."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    def fetch(patterns: list[str]) -> tuple[Path, list[str]]:
        found = snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=not download
        )
        return Path(found), patterns

    if what == "tokenizer":
        return fetch(TOKENIZER)
    folder, patterns = fetch(TEXT_AND_SAFETENSORS)
    if not any(folder.glob("*.safetensors")):
        return fetch([*TEXT_AND_SAFETENSORS, "*.bin"])
    if bare := _bare_models(folder):
        return fetch([*patterns, *(f"{place}/*.bin" for place in bare)])
    return folder, patterns


def _bare_models(folder: Path) -> list[str]:
    """Folders inside with a configuration of their own and no safetensors, as towers lie beside models."""
    places = sorted(path.parent for path in folder.glob("*/**/config.json"))
    return [place.relative_to(folder).as_posix() for place in places if not any(place.glob("*.safetensors"))]
