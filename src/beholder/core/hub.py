"""From what a person types to a folder on this machine: a folder as it is, a hub id fetched and cached."""

from __future__ import annotations

import re
from pathlib import Path

from beholder.core.errors import CheckpointError

TEXT_AND_SAFETENSORS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def find_checkpoint(name_or_path: str | Path, *, download: bool = True) -> Path:
    """The folder of a checkpoint; `owner/name` or `owner/name@revision` comes from the Hugging Face hub.

    With `download` off, a hub id is found only if it has been downloaded before.
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
    return _fetch(given, download)


def _fetch(given: str, download: bool) -> Path:
    """Download (or find in the cache); every way this fails is one sentence."""
    from huggingface_hub import errors

    name, _, revision = given.partition("@")
    try:
        return _snapshot(name, revision or None, download)
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
        if not download:
            raise CheckpointError(
                f"there is no folder {given!r}, and as a hub id it is not (completely) in the download cache"
            ) from error
        raise CheckpointError(
            f"there is no folder {given!r}, it is not (completely) in the download cache, and the hub "
            "cannot be reached (no network, or HF_HUB_OFFLINE is set); "
            "give a local folder or connect once to fetch it"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(f"{given!r} could not be fetched from the hub: {reason}") from error


def _snapshot(name: str, revision: str | None, download: bool) -> Path:
    """All small files and the weights; pickled weights only where the model has no others."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    def fetch(patterns: list[str]) -> Path:
        found = snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=not download
        )
        return Path(found)

    folder = fetch(TEXT_AND_SAFETENSORS)
    return folder if any(folder.glob("*.safetensors")) else fetch([*TEXT_AND_SAFETENSORS, "*.bin"])
