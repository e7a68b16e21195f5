"""Writes weight files, one tensor at a time: from kept headers, as pickles, or in the order of the source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beholder.checkpoints.assembled import Files
from beholder.checkpoints.kept import KEPT_TENSORS
from beholder.checkpoints.reader import INDEX, PICKLED_INDEX, SINGLE, Contents
from beholder.checkpoints.shards import LENGTH_BYTES, ShardHeader, TensorHeader, parse_header, read_shard
from beholder.checkpoints.splits import Pieces, header_of
from beholder.checkpoints.streams import mean_rows, read_bytes, tensor_of
from beholder.core.errors import CheckpointError


def write_kept(contents: Contents, pieces: Pieces, kept: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Published files from their own headers."""
    shards = [parse_header(Path(file["name"]), file["header"].encode()) for file in kept["files"]]
    for shard in shards:
        _write_shard(contents, shard, pieces, folder)
    if kept["index"] is not None:
        (folder / INDEX).write_text(kept["index"], encoding="utf-8")
    return tuple(shard.name for shard in shards)


def write_pickles(
    contents: Contents, pieces: Pieces, kept: Mapping[str, Any], folder: Path
) -> tuple[str, ...]:
    """Published `.bin` files: the same tensors in the same order, one file in memory at a time."""
    import torch

    dropped = contents.folder / KEPT_TENSORS
    aside = Files(Contents(contents.folder, (), {}))
    rest = read_shard(dropped).tensors if dropped.is_file() else {}
    for file in kept["pickled"]:
        held = {
            name: aside.read(rest[name], name) if name in rest else tensor_of(contents, pieces[name], name)
            for name in file["tensors"]
        }
        torch.save(held, folder / file["name"])
    if kept["index"] is not None:
        (folder / PICKLED_INDEX).write_text(kept["index"], encoding="utf-8")
    return tuple(file["name"] for file in kept["pickled"])


def write_like_source(contents: Contents, pieces: Pieces, folder: Path) -> tuple[str, ...]:
    """The same numbers in the same files in the same order, as tensors of new names."""
    by_file: dict[str, dict[str, TensorHeader]] = {}
    for name, made_of in pieces.items():
        tensor = header_of(made_of, contents.tensors, name)
        by_file.setdefault(tensor.file, {})[name] = tensor
    files = {old: file_name(number, len(by_file)) for number, old in enumerate(sorted(by_file), start=1)}
    shards: list[ShardHeader] = []
    for old, tensors in by_file.items():
        shards.append(plan_shard(files[old], tensors))
        _write_shard(contents, shards[-1], pieces, folder)
    return write_index(shards, folder)


def write_index(shards: Sequence[ShardHeader], folder: Path) -> tuple[str, ...]:
    """Say which file holds which tensor, where there is more than one; the files' names."""
    placed = {name: shard.name for shard in shards for name in shard.tensors}
    total = sum(tensor.bytes for shard in shards for tensor in shard.tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return tuple(sorted(shard.name for shard in shards))


def file_name(number: int, count: int) -> str:
    """What one of so many weight files is called."""
    return SINGLE if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def plan_shard(name: str, tensors: Mapping[str, TensorHeader]) -> ShardHeader:
    """A header for tensors in the order of their places."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
        end = offset + tensor.bytes
        header[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format wants the data to begin at a multiple of eight bytes.
    return parse_header(Path(name), text + b" " * (-len(text) % LENGTH_BYTES))


def _write_shard(contents: Contents, shard: ShardHeader, pieces: Pieces, folder: Path) -> None:
    """One safetensors file; `pieces` says what each tensor is made of."""
    text = shard.text.encode()
    with (folder / shard.name).open("wb") as out:
        out.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for key, tensor in sorted(shard.tensors.items(), key=lambda item: item[1].begin):
            for stretch in pieces[key]:
                for chunk in read_bytes(contents, stretch):
                    out.write(chunk)
                if stretch.fill:
                    out.write(mean_rows(contents, stretch))
            if out.tell() != tensor.end:
                raise CheckpointError(f"{key} has another length than {shard.name} plans for it")
