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
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from beholder.checkpoints.assembled import Files, Stored
from beholder.checkpoints.loader import ModelFamily, Plan, SameNames, check
from beholder.checkpoints.reader import (
    INDEX,
    LENGTH_BYTES,
    PICKLED_INDEX,
    SINGLE,
    Contents,
    ShardHeader,
    TensorHeader,
    has_weights,
    parse_header,
    read_shard,
)
from beholder.checkpoints.splits import (
    Pieces,
    Stretch,
    TableWithSplits,
    apart,
    header_of,
    targets,
    with_rows,
)
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LAYOUTS = ("published", "ours")

KEPT_CONFIG = "published_config.json"
KEPT_LAYOUT = "published_layout.json"
KEPT_FILES = "published_files"
ADDED = "added.json"
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
    layout: str
    tensors: int
    files: tuple[str, ...]
    dropped: tuple[str, ...]
    is_identical: bool  # published files made from kept headers: byte for byte those of the original


def convert(
    source: Path, target: Path, family: PublishedFamily, to: str, *, base: str | Path | None = None
) -> Conversion:
    """Write `source` to the new folder `target` in the layout `to`; nothing is left behind if it fails.

    An adapter is merged with its `base`, and a tower that lies elsewhere comes along, unless the published
    layout is written: there it stays where it is.
    """
    others: Mapping[str, Callable[[Any], TableWithSplits]] = getattr(family, "other_layouts", {})
    if to not in (*LAYOUTS, *others):
        raise ConfigError(f"layout {to!r} is unknown; known: {', '.join((*LAYOUTS, *others))}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not an empty folder; give a new one")
    plan, contents = check(source, family, base=base)
    if plan.layout == to and contents.adapter is None and has_weights(source):
        raise ConfigError(f"{source} is in the {to} layout already")
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        if to == "published":
            done = _to_published(contents, plan, family, partial)
        else:
            names = others[to](plan.config) if to in others else SameNames()
            done = _to_ours(contents, plan, family, partial, names, to)
        _copy_other_files(source, partial)
        _other_files(source, partial, plan, family, to, base)
        check(partial, family)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Conversion(target=target, **done)


def _to_ours(
    contents: Contents, plan: Plan, family: PublishedFamily, folder: Path, names: TableWithSplits, to: str
) -> dict[str, Any]:
    held = {theirs: targets(plan.names, theirs) for theirs in contents.tensors}
    parameters = with_rows(
        apart(held), contents.tensors, {name: plan.wanted[name][0] for name in plan.padded}
    )
    pieces = renamed(parameters, names)
    files = _write_like_source(contents, pieces, folder)
    plan.config.architectures = [family.model_class().__name__]
    plan.config.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    if plan.layout == "published" and contents.adapter is None and has_weights(contents.folder):
        shutil.copyfile(contents.folder / "config.json", folder / KEPT_CONFIG)
        own = sorted(name for name, tensor in contents.tensors.items() if not Path(tensor.file).is_absolute())
        kept = (_describe_files(contents) if contents.is_safetensors else {}) | {
            "config": _as_written(plan.config),
            "names": own,
        }
        (folder / KEPT_LAYOUT).write_text(json.dumps(kept), encoding="utf-8")
    else:
        for name in (KEPT_CONFIG, KEPT_LAYOUT):
            if (contents.folder / name).is_file():
                shutil.copyfile(contents.folder / name, folder / name)
    dropped = tuple(sorted(theirs for theirs, parts in held.items() if not parts))
    return {"layout": to, "tensors": len(pieces), "files": files, "dropped": dropped, "is_identical": False}


def renamed(parameters: Pieces, names: TableWithSplits) -> dict[str, tuple[Stretch, ...]]:
    """What parameters are made of, as what the tensors of a layout are made of."""
    wholes = dict.fromkeys(names.theirs(parameter) for parameter in parameters)
    return {
        whole: tuple(stretch for parameter in targets(names, whole) for stretch in parameters[parameter])
        for whole in wholes
    }


def _to_published(contents: Contents, plan: Plan, family: PublishedFamily, folder: Path) -> dict[str, Any]:
    published = _published_config(contents.folder, plan.config, family)
    (folder / "config.json").write_bytes(published)
    held = {theirs: targets(plan.names, theirs) for theirs in contents.tensors}
    parameters = with_rows(apart(held), contents.tensors, plan.padded)
    pieces = _without_elsewhere(renamed(parameters, family.key_table(plan.config)), contents, plan)
    kept = _kept_layout(contents, pieces)
    if kept is None:
        files = _write_like_source(contents, pieces, folder)
    else:
        files = _write_kept(contents, pieces, kept, folder)
    return {
        "layout": "published",
        "tensors": len(pieces),
        "files": files,
        "dropped": tuple(sorted(theirs for theirs, parts in held.items() if not parts)),
        "is_identical": kept is not None,
    }


def _without_elsewhere(
    pieces: dict[str, tuple[Stretch, ...]], contents: Contents, plan: Plan
) -> dict[str, tuple[Stretch, ...]]:
    """Without what the published checkpoint did not hold itself: a tower that came from its own folder."""
    path = contents.folder / KEPT_LAYOUT
    names = json.loads(path.read_text(encoding="utf-8")).get("names") if path.is_file() else None
    if names is not None:
        return {name: made_of for name, made_of in pieces.items() if name in names}
    if plan.layout != "published":
        return pieces
    return {
        name: made_of
        for name, made_of in pieces.items()
        if not any(
            ours.startswith(plan.from_base) and Path(contents.tensors[stretch.stored].file).is_absolute()
            for stretch in made_of
            for ours in targets(plan.names, stretch.stored)
        )
    }


def _published_config(source: Path, config: PreTrainedConfig, family: PublishedFamily) -> bytes:
    """The original `config.json` where it was kept and still describes the model; written anew otherwise."""
    kept = source / KEPT_CONFIG
    if kept.is_file():
        original = kept.read_bytes()
        layout = source / KEPT_LAYOUT
        described = json.loads(layout.read_text(encoding="utf-8")).get("config") if layout.is_file() else None
        if described is None:
            described = family.config_from_published(json.loads(original), source).to_dict()
        if _lasting(described) == _lasting(_as_written(config)):
            return original
    return (json.dumps(family.config_to_published(config), indent=2, ensure_ascii=False) + "\n").encode()


def _as_written(config: PreTrainedConfig) -> dict[str, Any]:
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


def _describe_files(contents: Contents) -> dict[str, Any]:
    """What is needed to write the published files again: their headers, word for word, and the index."""
    index = contents.folder / INDEX
    return {
        "index": index.read_text(encoding="utf-8") if index.is_file() else None,
        "files": [
            {"name": name, "header": read_shard(contents.folder / name).text} for name in contents.files
        ],
    }


def _kept_layout(contents: Contents, pieces: Pieces) -> dict[str, Any] | None:
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


def _write_kept(contents: Contents, pieces: Pieces, kept: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Published files from their own headers."""
    shards = [parse_header(Path(file["name"]), file["header"].encode()) for file in kept["files"]]
    for shard in shards:
        _write_shard(contents, shard, pieces, folder)
    if kept["index"] is not None:
        (folder / INDEX).write_text(kept["index"], encoding="utf-8")
    return tuple(shard.name for shard in shards)


def _write_like_source(contents: Contents, pieces: Pieces, folder: Path) -> tuple[str, ...]:
    """The same numbers in the same files in the same order, as tensors of new names."""
    by_file: dict[str, dict[str, TensorHeader]] = {}
    for name, made_of in pieces.items():
        tensor = header_of(made_of, contents.tensors, name)
        by_file.setdefault(tensor.file, {})[name] = tensor
    files = {old: _file_name(number, len(by_file)) for number, old in enumerate(sorted(by_file), start=1)}
    placed: dict[str, str] = {}
    total = 0
    for old, tensors in by_file.items():
        shard = _plan_shard(files[old], tensors)
        _write_shard(contents, shard, pieces, folder)
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


def _write_shard(contents: Contents, shard: ShardHeader, pieces: Pieces, folder: Path) -> None:
    """One safetensors file; `pieces` says what each tensor is made of."""
    text = shard.text.encode()
    with (folder / shard.name).open("wb") as out:
        out.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for key, tensor in sorted(shard.tensors.items(), key=lambda item: item[1].begin):
            for stretch in pieces[key]:
                for chunk in _read_bytes(contents, stretch):
                    out.write(chunk)
                if stretch.fill:
                    out.write(_mean_rows(contents, stretch))
            if out.tell() != tensor.end:
                raise CheckpointError(f"{key} has another length than {shard.name} plans for it")


def _read_bytes(contents: Contents, stretch: Stretch) -> Iterator[bytes]:
    """The bytes of one stored tensor, or of some of its rows, a piece at a time."""
    tensor = contents.tensors[stretch.stored]
    path = contents.folder / tensor.file
    begin, end = stretch.bytes_of(tensor)
    if contents.adapter is not None and stretch.stored in contents.adapter.pairs:
        yield _bytes_of(
            Stored(Files(contents), tensor, stretch.stored, change=contents.adapter.pairs[stretch.stored])[
                ...
            ]
        )[begin:end]
        return
    if not path.suffix == ".safetensors":
        yield _pickled_bytes(path, tensor.name or stretch.stored)[begin:end]
        return
    with path.open("rb") as file:
        file.seek(tensor.begin + begin)
        yield from _pieces(file, end - begin)


def _mean_rows(contents: Contents, stretch: Stretch) -> bytes:
    """The rows that a vocabulary is filled up with."""
    tensor = Stored(Files(contents), contents.tensors[stretch.stored], stretch.stored, fill=stretch.fill)[...]
    return _bytes_of(tensor[-stretch.fill :])


def _bytes_of(tensor: Any) -> bytes:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


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

    return _bytes_of(torch.load(path, map_location="cpu", weights_only=True, mmap=True)[name])


def _copy_other_files(source: Path, target: Path) -> None:
    """Tokenizer, generation settings, licence, also in folders: whatever is neither weights nor layout."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        is_hidden = any(part.startswith(".") for part in inside.parts)
        if not path.is_file() or is_hidden or path.suffix in WEIGHT_SUFFIXES or str(inside) in NOT_COPIED:
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside)


def _other_files(
    source: Path, target: Path, plan: Plan, family: PublishedFamily, to: str, base: str | Path | None
) -> None:
    """Files that a layout has besides: written by the family, and taken back when the published one is
    written.

    A published file that is written anew is kept in a folder of its own.
    """
    kept = target / KEPT_FILES
    if to == "published":
        note = kept / ADDED
        for name in json.loads(note.read_text(encoding="utf-8")) if note.is_file() else []:
            (target / name).unlink(missing_ok=True)
        for path in sorted(kept.glob("*")):
            if path.name != ADDED:
                os.replace(path, target / path.name)
        shutil.rmtree(kept, ignore_errors=True)
        return
    if (write := getattr(family, "other_files", None)) is None or kept.is_dir():
        return
    kept.mkdir()
    for path in sorted(target.glob("*")):
        if path.is_file() and path.suffix != ".safetensors" and path.name not in NOT_COPIED:
            shutil.copyfile(path, kept / path.name)
    before = {path.name for path in target.glob("*")}
    write(target, source, plan.config, to, base)
    added = sorted({path.name for path in target.glob("*")} - before)
    (kept / ADDED).write_text(json.dumps(added), encoding="utf-8")
