"""Rewrites a checkpoint from one layout to the other, bit for bit, one tensor at a time.

Going to our layout, the published `config.json` and the headers of the published files are kept beside the
weights; going back they are used again, so that the files come out as they were, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast

from beholder.checkpoints.loader import ModelFamily, Plan, check
from beholder.checkpoints.reader import (
    INDEX,
    LENGTH_BYTES,
    PICKLED_INDEX,
    SINGLE,
    Contents,
    ShardHeader,
    TensorHeader,
    parse_header,
    read_shard,
)
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Layout = Literal["published", "ours"]
LAYOUTS: tuple[Layout, ...] = ("published", "ours")

KEPT_CONFIG = "published_config.json"
KEPT_LAYOUT = "published_layout.json"
NOT_COPIED = {"config.json", INDEX, PICKLED_INDEX, KEPT_CONFIG, KEPT_LAYOUT}
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
CHUNK_BYTES = 2**24
# Written by transformers on every save; two configurations that differ only here describe one model.
VOLATILE_KEYS = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}


class PublishedFamily(ModelFamily, Protocol):
    """A family that can also write its published configuration."""

    @property
    def config_to_published(self) -> Callable[[Any], dict[str, Any]]:
        """From our configuration to the published config.json."""
        ...


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    target: Path
    layout: Layout
    tensors: int
    files: tuple[str, ...]
    dropped: tuple[str, ...]
    is_identical: bool  # published files made from kept headers: byte for byte those of the original


def convert(source: Path, target: Path, family: PublishedFamily, to: str) -> Conversion:
    """Write `source` to the new folder `target` in the layout `to`; nothing is left behind if it fails."""
    if to not in LAYOUTS:
        raise ConfigError(f"layout {to!r} is unknown; known: {', '.join(LAYOUTS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not an empty folder; give a new one")
    plan, contents = check(source, family)
    if plan.layout == to:
        raise ConfigError(f"{source} is in the {to} layout already")
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        done = (_to_ours if to == "ours" else _to_published)(contents, plan, family, partial)
        _copy_other_files(source, partial)
        check(partial, family)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Conversion(target=target, **done)


def _to_ours(contents: Contents, plan: Plan, family: PublishedFamily, folder: Path) -> dict[str, Any]:
    names = {theirs: plan.names.ours(theirs) for theirs in contents.tensors}
    kept = {theirs: ours for theirs, ours in names.items() if ours is not None}
    files = _write_like_source(contents, kept, folder)
    plan.config.architectures = [family.model_class().__name__]
    plan.config.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    shutil.copyfile(contents.folder / "config.json", folder / KEPT_CONFIG)
    if contents.is_safetensors:
        (folder / KEPT_LAYOUT).write_text(json.dumps(_describe_files(contents)), encoding="utf-8")
    dropped = tuple(sorted(names.keys() - kept.keys()))
    return {"layout": "ours", "tensors": len(kept), "files": files, "dropped": dropped, "is_identical": False}


def _to_published(contents: Contents, plan: Plan, family: PublishedFamily, folder: Path) -> dict[str, Any]:
    published = _published_config(contents.folder, plan.config, family)
    (folder / "config.json").write_bytes(published)
    table = family.key_table(plan.config)
    names = {ours: table.theirs(ours) for ours in contents.tensors}
    kept = _kept_layout(contents, names)
    if kept is None:
        files = _write_like_source(contents, names, folder)
    else:
        files = _write_kept(contents, {theirs: ours for ours, theirs in names.items()}, kept, folder)
    return {
        "layout": "published",
        "tensors": len(names),
        "files": files,
        "dropped": (),
        "is_identical": kept is not None,
    }


def _published_config(source: Path, config: PreTrainedConfig, family: PublishedFamily) -> bytes:
    """The original `config.json` where it was kept and still describes the model; written anew otherwise."""
    kept = source / KEPT_CONFIG
    if kept.is_file():
        original = kept.read_bytes()
        described = family.config_from_published(json.loads(original), source)
        if _lasting(described.to_dict()) == _lasting(config.to_dict()):
            return original
    return (json.dumps(family.config_to_published(config), indent=2, ensure_ascii=False) + "\n").encode()


def _lasting(config: Any) -> Any:
    """A configuration without what changes from save to save."""
    if isinstance(config, Mapping):
        settings = cast("Mapping[str, Any]", config)
        return {key: _lasting(value) for key, value in settings.items() if key not in VOLATILE_KEYS}
    if isinstance(config, (list, tuple)):
        return [_lasting(value) for value in cast("Sequence[Any]", config)]
    return config


def _describe_files(contents: Contents) -> dict[str, Any]:
    """What is needed to write the published files again: their headers, word for word, and the index."""
    index = contents.folder / INDEX
    return {
        "index": index.read_text(encoding="utf-8") if index.is_file() else None,
        "files": [
            {"name": name, "header": read_shard(contents.folder / name).text} for name in contents.files
        ],
    }


def _kept_layout(contents: Contents, names: Mapping[str, str]) -> dict[str, Any] | None:
    """The kept description if it still fits: same tensors, same shapes, same number formats."""
    path = contents.folder / KEPT_LAYOUT
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    described: dict[str, TensorHeader] = {}
    for file in kept["files"]:
        described |= parse_header(Path(file["name"]), file["header"].encode()).tensors
    have = {names[ours]: (tensor.shape, tensor.dtype) for ours, tensor in contents.tensors.items()}
    return kept if have == {key: (tensor.shape, tensor.dtype) for key, tensor in described.items()} else None


def _write_kept(
    contents: Contents, ours: Mapping[str, str], kept: Mapping[str, Any], folder: Path
) -> tuple[str, ...]:
    """Published files from their own headers."""
    shards = [parse_header(Path(file["name"]), file["header"].encode()) for file in kept["files"]]
    for shard in shards:
        _write_shard(contents, shard, ours, folder)
    if kept["index"] is not None:
        (folder / INDEX).write_text(kept["index"], encoding="utf-8")
    return tuple(shard.name for shard in shards)


def _write_like_source(contents: Contents, names: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    """The same tensors in the same files in the same order, under new names."""
    by_file: dict[str, dict[str, TensorHeader]] = {}
    for stored, new in names.items():
        tensor = contents.tensors[stored]
        by_file.setdefault(tensor.file, {})[new] = tensor
    files = {old: _file_name(number, len(by_file)) for number, old in enumerate(sorted(by_file), start=1)}
    stored_names = {new: stored for stored, new in names.items()}
    placed: dict[str, str] = {}
    total = 0
    for old, tensors in by_file.items():
        shard = _plan_shard(files[old], tensors)
        _write_shard(contents, shard, stored_names, folder)
        placed |= dict.fromkeys(shard.tensors, shard.name)
        total += sum(tensor.end - tensor.begin for tensor in shard.tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return tuple(sorted(files.values()))


def _file_name(number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _plan_shard(name: str, tensors: Mapping[str, TensorHeader]) -> ShardHeader:
    """A header for tensors in the order in which they are stored now."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
        end = offset + tensor.bytes
        header[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format wants the data to begin at a multiple of eight bytes.
    return parse_header(Path(name), text + b" " * (-len(text) % LENGTH_BYTES))


def _write_shard(contents: Contents, shard: ShardHeader, stored: Mapping[str, str], folder: Path) -> None:
    """One safetensors file; `stored` names each tensor's source."""
    text = shard.text.encode()
    with (folder / shard.name).open("wb") as out:
        out.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for key, tensor in sorted(shard.tensors.items(), key=lambda item: item[1].begin):
            for chunk in _read_bytes(contents, stored[key]):
                out.write(chunk)
            if out.tell() != tensor.end:
                raise CheckpointError(f"{key} has another length than {shard.name} plans for it")


def _read_bytes(contents: Contents, name: str) -> Iterator[bytes]:
    """The bytes of one tensor, a piece at a time."""
    tensor = contents.tensors[name]
    path = contents.folder / tensor.file
    if not path.suffix == ".safetensors":
        yield _pickled_bytes(path, name)
        return
    with path.open("rb") as file:
        file.seek(tensor.begin)
        yield from _pieces(file, tensor.end - tensor.begin)


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0:
        piece = file.read(min(length, CHUNK_BYTES))
        if not piece:
            raise CheckpointError(f"{file.name} ended {length} bytes early while it was read")
        length -= len(piece)
        yield piece


def _pickled_bytes(path: Path, name: str) -> bytes:
    """A tensor of a `.bin` file; the file is mapped, so only this tensor's pages are read."""
    import torch

    tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=True)[name]
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _copy_other_files(source: Path, target: Path) -> None:
    """Tokenizer, generation settings, licence, also in folders: whatever is neither weights nor layout."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        is_hidden = any(part.startswith(".") for part in inside.parts)
        if not path.is_file() or is_hidden or path.suffix in WEIGHT_SUFFIXES or str(inside) in NOT_COPIED:
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside)
