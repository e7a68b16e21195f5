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

from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from beholder.checkpoints.lora import Adapter

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian
MOST_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class TensorHeader:
    """What shape one stored tensor has and where it is; `begin` and `end` are bytes in a safetensors file.

    Of a `.bin` file only the length is known: `begin` is 0 there.
    """

    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F32, BF16, ...
    file: str
    begin: int
    end: int
    name: str = ""  # what it is called in its file, where that differs from what it is called here

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def bytes(self) -> int:
        """How long it is in a file."""
        return self.end - self.begin


@dataclass(frozen=True)
class ShardHeader:
    """The header of one safetensors file; `text` is it byte for byte, as it must be written back."""

    name: str
    text: str
    metadata: dict[str, str]
    tensors: dict[str, TensorHeader]


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


def read_shard(path: Path) -> ShardHeader:
    """The header of one safetensors file, checked against the length of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if start.startswith(b"version "):
            raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; run `git lfs pull`")
        if len(start) < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MOST_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file: its header is not there ({size} bytes)"
            )
        text = file.read(length)
    shard = parse_header(path, text)
    wanted = max((tensor.end for tensor in shard.tensors.values()), default=LENGTH_BYTES + length)
    if size < wanted:
        raise CheckpointError(
            f"{path} is truncated: it must have {wanted} bytes and has {size}; fetch it again"
        )
    if size > wanted:
        raise CheckpointError(
            f"{path} is damaged: it must have {wanted} bytes and has {size}; fetch it again"
        )
    _check_places(path, shard, LENGTH_BYTES + length)
    return shard


def _check_places(path: Path, shard: ShardHeader, begin: int) -> None:
    """Every tensor must be as long as its shape and number format say, and they must leave no gap."""
    for name, tensor in sorted(shard.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        width = DTYPE_BYTES.get(tensor.dtype)
        if any(side < 0 for side in tensor.shape):
            raise CheckpointError(f"{path} is damaged: {name} has the shape {list(tensor.shape)}")
        if width is not None and tensor.bytes != tensor.size * width:
            raise CheckpointError(
                f"{path} is damaged: {name} is {tensor.dtype} {list(tensor.shape)}, which is "
                f"{tensor.size * width} bytes, and its place has {tensor.bytes}; fetch it again"
            )
        if tensor.begin != begin:
            raise CheckpointError(
                f"{path} is damaged: {name} does not begin where the tensor before it ends; fetch it again"
            )
        begin = tensor.end


def parse_header(path: Path, text: bytes) -> ShardHeader:
    """Read a header's text; offsets become positions in the file."""
    offset = LENGTH_BYTES + len(text)
    try:
        header = json.loads(text)
        metadata = dict(header.pop("__metadata__", None) or {})
        tensors = {
            name: TensorHeader(
                shape=tuple(_whole(side) for side in entry["shape"]),
                dtype=str(entry["dtype"]),
                file=path.name,
                begin=offset + _whole(entry["data_offsets"][0]),
                end=offset + _whole(entry["data_offsets"][1]),
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: its header cannot be read ({error})") from error
    return ShardHeader(path.name, text.decode("utf-8"), metadata, tensors)


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{number!r} is not a whole number")
    return number


def _read_pickled(path: Path) -> dict[str, TensorHeader]:
    """Names and shapes inside a `.bin` file; torch reads its table of contents and no weights."""
    import torch

    with path.open("rb") as file:
        if file.read(LENGTH_BYTES) == b"version ":
            raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; run `git lfs pull`")
    try:
        stored = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        _check_table(path)
    except Exception as error:  # torch and pickle raise many kinds here; all mean the same to the user
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__} and not tensors by their names")
    stored = cast("dict[str, Any]", stored)
    return {
        name: TensorHeader(tuple(tensor.shape), dtype_code(tensor.dtype), path.name, 0, tensor.nbytes)
        for name, tensor in stored.items()
        if isinstance(tensor, torch.Tensor)
    }


def _check_table(path: Path) -> None:
    """The table of contents of a `.bin` file must have the checksum that stands beside it."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                archive.read(name)  # raises where the checksum is another


# The codes of the safetensors format and the names of torch.
DTYPE_CODES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8,
}  # fmt: skip


def dtype_code(dtype: Any) -> str:
    """The safetensors code of a torch dtype."""
    name = str(dtype).removeprefix("torch.")
    return next((code for code, known in DTYPE_CODES.items() if known == name), name)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
