"""What a checkpoint folder holds, from headers and indexes alone: no weight is read.

A damaged file is found here, before anything is loaded: a truncated shard, a shard that is missing, an index
and shards that disagree, a pointer file that stands where the weights should be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.checkpoints.shards import TensorHeader, dtype_code, read_shard
from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from beholder.checkpoints.lora import Adapter

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class Contents:
    """All tensors of a checkpoint by name, and the files that hold them, in order."""

    folder: Path
    files: tuple[str, ...]
    tensors: dict[str, TensorHeader]
    adapter: Adapter | None = None  # what is to be added to some of the tensors
    base: Path | None = None  # the folder of the model that this one changes

    @property
    def is_safetensors(self) -> bool:
        """Whether the weights can be read as plain bytes."""
        return all(name.endswith(".safetensors") for name in self.files)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it is not a checkpoint that can be opened")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__} and not a JSON object")
    return cast("dict[str, Any]", config)


def broken_json(folder: Path) -> list[str]:
    """The folder's JSON files that are none."""
    return [path.name for path in sorted(folder.glob("*.json")) if not _is_json(path)]


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return True


def read_contents(folder: Path) -> Contents:
    """Names, shapes and files of all stored tensors."""
    safetensors = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        if SINGLE in safetensors:
            raise CheckpointError(f"{folder} has both {SINGLE} and {INDEX}; remove the one that is left over")
        return _indexed(folder, INDEX)
    if SINGLE in safetensors:
        return Contents(folder, (SINGLE,), read_shard(folder / SINGLE).tensors)
    if safetensors:
        raise CheckpointError(f"{folder} has {_some(safetensors)} but neither {SINGLE} nor {INDEX}")
    if any((folder / name).is_file() for name in (PICKLED, PICKLED_INDEX)):
        return read_pickled(folder)
    raise CheckpointError(f"{folder} has a config.json but no weights (*.safetensors or pytorch_model*.bin)")


def read_pickled(folder: Path) -> Contents:
    """The same of the `.bin` files alone, which may lie beside safetensors files."""
    if (folder / PICKLED_INDEX).is_file():
        return _indexed(folder, PICKLED_INDEX)
    return Contents(folder, (PICKLED,), _read_pickled(folder / PICKLED))


def has_weights(folder: Path) -> bool:
    """Whether there are weights of a whole model."""
    return any((folder / name).is_file() for name in (SINGLE, INDEX, PICKLED, PICKLED_INDEX))


def read_file(path: Path) -> dict[str, TensorHeader]:
    """The tensors of one weight file of any name."""
    return read_shard(path).tensors if path.suffix == ".safetensors" else _read_pickled(path)


def tensor_names(folder: Path) -> tuple[str, ...]:
    """Names alone, to tell whose checkpoint it is; none where they cannot be read (opening it says why)."""
    try:
        for index in (INDEX, PICKLED_INDEX):
            if (folder / index).is_file():
                return tuple(_read_index(folder / index))
        return tuple(read_contents(folder).tensors)
    except CheckpointError:
        return ()


def _indexed(folder: Path, index: str) -> Contents:
    """A sharded checkpoint: the shards must hold exactly what the index says."""
    placed = _read_index(folder / index)
    files = tuple(dict.fromkeys(sorted(placed.values())))
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder} lacks {len(absent)} of the {len(files)} weight files its index lists: {_some(absent)}"
        )
    tensors: dict[str, TensorHeader] = {}
    for name in files:
        read = (
            read_shard(folder / name).tensors
            if name.endswith(".safetensors")
            else _read_pickled(folder / name)
        )
        if twice := sorted(read.keys() & tensors.keys()):
            raise CheckpointError(f"{folder}: {len(twice)} tensors are stored twice: {_some(twice)}")
        tensors |= read
    wrong = sorted(key for key in placed if key not in tensors or tensors[key].file != placed[key])
    if wrong:
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors are not in the file {index} names: {_some(wrong)}"
        )
    if unlisted := sorted(tensors.keys() - placed.keys()):
        raise CheckpointError(
            f"{folder}: {len(unlisted)} stored tensors are not in {index}: {_some(unlisted)}"
        )
    return Contents(folder, files, tensors)


def _read_index(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is not a weight index ({error})") from error


def _read_pickled(path: Path) -> dict[str, TensorHeader]:
    """Names and shapes inside a `.bin` file; torch reads its table of contents and no weights."""
    from beholder.checkpoints.pickles import tensors_in

    return {
        name: TensorHeader(tuple(tensor.shape), dtype_code(tensor.dtype), path.name, 0, tensor.nbytes)
        for name, tensor in tensors_in(path, headers_only=True).items()
    }


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
