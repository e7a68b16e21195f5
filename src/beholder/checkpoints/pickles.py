"""Weight files that were pickled, opened as tensors alone: what else they name is refused and never run.

Files of today are mapped, so that only what is asked for is read. Those of before torch 1.6 are no archives
and are read as a whole.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

POINTER = b"version "
REFUSED = re.compile(r"GLOBAL (\S+) was not an allowed global|(?:Trying to call|Unsupported class) (\S+)")


def open_pickled(path: Path, *, headers_only: bool = False) -> dict[str, Any]:
    """What the file holds, by names; with `headers_only` its tensors have shapes and no numbers.

    CheckpointError where it cannot be read, holds no dictionary, or wants code to be run.
    """
    import torch

    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; run `git lfs pull`")
    is_archive = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(_arrays()):
            stored = torch.load(
                path, map_location="meta" if headers_only else "cpu", weights_only=True, mmap=is_archive
            )
        if headers_only and is_archive:
            _check_table(path)
    except Exception as error:  # torch and pickle raise many kinds here; all mean the same to the user
        raise CheckpointError(f"{path} cannot be read as weights: {_reason(error)}") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__} and not tensors by their names")
    return cast("dict[str, Any]", stored)


def tensors_in(path: Path, *, headers_only: bool = False) -> dict[str, Tensor]:
    """The tensors of such a file; CheckpointError where they lie deeper, as whole trainings are saved."""
    import torch

    stored = open_pickled(path, headers_only=headers_only)
    tensors = {name: value for name, value in stored.items() if isinstance(value, torch.Tensor)}
    deeper = [name for name, value in stored.items() if _holds_tensors(value)]
    if deeper and not tensors:
        raise CheckpointError(
            f"{path} holds no tensors by their names but a training's state; its tensors are in "
            f"{deeper[0]!r}: save that alone as a weight file"
        )
    return tensors


def _holds_tensors(value: Any) -> bool:
    import torch

    if not isinstance(value, dict):
        return False
    return any(isinstance(inner, torch.Tensor) for inner in cast("dict[str, Any]", value).values())


def _arrays() -> list[Any]:
    """What numpy's arrays are made with: trainings save the state of its random numbers beside the tensors.

    Files name the function as versions of numpy before 2 and since then have it.
    """
    import numpy as np
    from numpy._core import multiarray  # pyright: ignore[reportPrivateUsage]

    make: Any = multiarray._reconstruct  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    names = (f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
    return [*((make, name) for name in names), np.ndarray, np.dtype, np.dtypes.UInt32DType]


def _reason(error: Exception) -> str:
    """One line; torch's own would tell the reader how to run the code after all."""
    text = str(error)
    if found := REFUSED.search(text):
        return f"it holds more than tensors ({found[1] or found[2]}), which would run code; nothing of it ran"
    if "Weights only load failed" in text:
        return f"it is damaged, or holds more than tensors ({type(error).__name__})"
    return (text or type(error).__name__).splitlines()[0]


def _check_table(path: Path) -> None:
    """The table of contents of an archive must have the checksum that stands beside it."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                archive.read(name)  # raises where the checksum is another
