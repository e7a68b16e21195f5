"""What our layout keeps of the published files, so that going back gives them as they were, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.checkpoints.assembled import Files
from beholder.checkpoints.reader import INDEX, PICKLED_INDEX, Contents
from beholder.checkpoints.shards import TensorHeader, parse_header, read_shard
from beholder.checkpoints.splits import Pieces, header_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from beholder.checkpoints.writer import PublishedFamily

KEPT_CONFIG = "published_config.json"
KEPT_LAYOUT = "published_layout.json"
# Of `.bin` files: tensors that no other layout has, as tables that follow from the configuration.
KEPT_TENSORS = "published_dropped.safetensors"
# Stored tensors that follow from the configuration: leaving them out loses nothing.
COMPUTED = ("inv_freq", "position_ids")
# Written by transformers on every save; two configurations that differ only here describe one model.
VOLATILE_KEYS = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}


def published_config(source: Path, config: PreTrainedConfig, family: PublishedFamily) -> bytes:
    """The original `config.json` where it was kept and still describes the model; written anew otherwise."""
    kept = source / KEPT_CONFIG
    if kept.is_file():
        original = kept.read_bytes()
        layout = source / KEPT_LAYOUT
        described = json.loads(layout.read_text(encoding="utf-8")).get("config") if layout.is_file() else None
        if described is None:
            described = family.config_from_published(json.loads(original), source).to_dict()
        if _lasting(described) == _lasting(as_written(config)):
            return original
    return (json.dumps(family.config_to_published(config), indent=2, ensure_ascii=False) + "\n").encode()


def as_written(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration as a file holds it."""
    return json.loads(config.to_json_string(use_diff=False))  # pyright: ignore[reportUnknownMemberType]


def _lasting(config: Any) -> Any:
    """A configuration without what changes from save to save."""
    if isinstance(config, Mapping):
        settings = cast("Mapping[str, Any]", config)
        return {key: _lasting(value) for key, value in settings.items() if key not in VOLATILE_KEYS}
    if isinstance(config, (list, tuple)):
        return [_lasting(value) for value in cast("Sequence[Any]", config)]
    return config


def describe_files(contents: Contents) -> dict[str, Any]:
    """What is needed to write the published files again: their headers, word for word, and the index."""
    index = contents.folder / INDEX
    return {
        "index": index.read_text(encoding="utf-8") if index.is_file() else None,
        "files": [
            {"name": name, "header": read_shard(contents.folder / name).text} for name in contents.files
        ],
    }


def describe_pickled(contents: Contents) -> dict[str, Any]:
    """What is needed to write `.bin` files again: which tensors they hold, in order, and the index."""
    index = contents.folder / PICKLED_INDEX
    names: dict[str, list[str]] = {file: [] for file in contents.files}
    for name, tensor in contents.tensors.items():
        if tensor.file in names:
            names[tensor.file].append(name)
    return {
        "index": index.read_text(encoding="utf-8") if index.is_file() else None,
        "pickled": [{"name": file, "tensors": held} for file, held in names.items()],
    }


def keep_dropped(contents: Contents, dropped: Sequence[str], folder: Path) -> None:
    """Put stored tensors that have no place in our layout beside it."""
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    if dropped:
        files = Files(contents)
        held = {name: files.read(contents.tensors[name], name) for name in dropped}
        save_file(held, folder / KEPT_TENSORS, metadata={"format": "pt"})


def kept_pickles(contents: Contents, pieces: Pieces) -> dict[str, Any] | None:
    """The kept description of `.bin` files, if every tensor that they had is there."""
    path = contents.folder / KEPT_LAYOUT
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "pickled" not in kept:
        return None
    dropped = contents.folder / KEPT_TENSORS
    have = pieces.keys() | (read_shard(dropped).tensors.keys() if dropped.is_file() else set[str]())
    wanted = {name for file in kept["pickled"] for name in file["tensors"]}
    return kept if have == wanted else None


def kept_layout(contents: Contents, pieces: Pieces) -> dict[str, Any] | None:
    """The kept description if it still fits: same tensors, same shapes, same number formats."""
    path = contents.folder / KEPT_LAYOUT
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    if "files" not in kept:
        return None
    described: dict[str, TensorHeader] = {}
    for file in kept["files"]:
        described |= parse_header(Path(file["name"]), file["header"].encode()).tensors
    headers = {name: header_of(made_of, contents.tensors, name) for name, made_of in pieces.items()}
    have = {name: (tensor.shape, tensor.dtype) for name, tensor in headers.items()}
    return kept if have == {key: (tensor.shape, tensor.dtype) for key, tensor in described.items()} else None
