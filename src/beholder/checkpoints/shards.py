"""The header of a safetensors file: its tensors, their shapes and places, checked against its length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.core.errors import CheckpointError

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
        if width is None and tensor.dtype not in NARROW_CODES:
            raise CheckpointError(
                f"{path} is damaged: {name} is {tensor.dtype}, which is no number format; fetch it again"
            )
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


# The codes of the safetensors format and the names of torch.
DTYPE_CODES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "U16": 2, "U32": 4,
    "U64": 8, "C64": 8,
}  # fmt: skip
# Formats of the specification whose numbers are no whole bytes.
NARROW_CODES = ("F4", "F6_E2M3", "F6_E3M2")


def dtype_code(dtype: Any) -> str:
    """The safetensors code of a torch dtype."""
    name = str(dtype).removeprefix("torch.")
    return next((code for code, known in DTYPE_CODES.items() if known == name), name)
