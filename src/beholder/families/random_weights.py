"""A checkpoint of a published size and layout, of random numbers: to measure and try what weights cost.

Tensors are made and written one after the other, so memory stays at a few of the largest rows whatever the
size. A parameter's numbers follow from the seed and its name, so all layouts of one model hold the same.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.checkpoints.loader import check
from beholder.checkpoints.new_folder import confirm_new, new_folder
from beholder.checkpoints.planning import SameNames
from beholder.checkpoints.reader import INDEX, SINGLE
from beholder.checkpoints.splits import targets, whole_shape
from beholder.core.device import DTYPES
from beholder.core.errors import ConfigError
from beholder.families import family
from beholder.families.geometries import geometry, published_config
from beholder.families.random_tokenizer import write_tokenizer

if TYPE_CHECKING:
    from beholder.families.family import Family

LAYOUTS = ("published", "ours")
SHARD_BYTES = 4 * 2**30
CHUNK = 2**24  # numbers made at a time
DEVIATION = 0.02
LAYER_SCALE = 0.1
CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64"}


@dataclass(frozen=True)
class Made:
    """What was written."""

    folder: Path
    name: str
    layout: str
    dtype: str
    tensors: int
    parameters: int
    bytes: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """One tensor of the layout: the parameters one below the other that it is made of, and rows that fill."""

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    is_float: bool


def write_random(
    name: str,
    folder: Path,
    *,
    layout: str = "published",
    layers: int | None = None,
    dtype: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Made:
    """Write the checkpoint `name` of `GEOMETRIES` to a new folder, whole or with `layers` layers.

    `layout` is "published", "ours", or another one that the family has; `dtype` as everywhere, left out as
    published. The tower is inside, and a tokenizer of the right size and kind lies beside.
    """
    size = geometry(name)
    of = family(size.family)
    if layout not in (*LAYOUTS, *of.other_layouts):
        raise ConfigError(f"layout {layout!r} is unknown; known: {', '.join((*LAYOUTS, *of.other_layouts))}")
    confirm_new(folder)
    published = published_config(size, layers, changes)
    kind = _dtype(dtype or published["torch_dtype"])
    config = of.config_from_published(published, Path())
    config.dtype = published["torch_dtype"] = kind
    tensors, wanted = stored_tensors(of, config, layout)
    with new_folder(folder) as partial:
        files, total = _write_shards(partial, tensors, wanted, kind, seed, shard_bytes)
        write_tokenizer(partial, size.tokenizer, published["vocab_size"], _context(published))
        _write_settings(partial, of, config, published, layout)
        check(partial, of)
    numbers = sum(_count(tensor.shape) for tensor in tensors)
    return Made(folder, name, layout, kind, len(tensors), numbers, total, files)


def stored_tensors(
    of: Family, config: Any, layout: str
) -> tuple[list[Stored], dict[str, tuple[tuple[int, ...], bool]]]:
    """What a layout stores of a model, and the model's parameters: shape, and whether they are fractions."""
    import torch

    with torch.device("meta"):
        model = of.model_class()(config)
    tied = set(model.all_tied_weights_keys)
    wanted = {
        name: (tuple(tensor.shape), tensor.is_floating_point())
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    if layout == "published":
        names: Any = of.key_table(config)
    else:
        names = of.other_layouts[layout](config) if layout in of.other_layouts else SameNames()
    rows = of.padded(config) if of.padded is not None and layout == "published" else {}
    stored: dict[str, Stored] = {}
    for ours in wanted:
        theirs = names.theirs(ours)
        if theirs in stored:
            continue
        parts = targets(names, theirs)
        shape = whole_shape([wanted[part][0] for part in parts])
        shape = (rows[ours], *shape[1:]) if ours in rows else shape
        stored[theirs] = Stored(theirs, parts, shape, wanted[ours][1])
    return list(stored.values()), wanted


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is unknown; use {', '.join(DTYPES)}")
    return DTYPES[name]


def _context(published: Mapping[str, Any]) -> int:
    return published["max_position_embeddings"]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _write_shards(
    folder: Path,
    tensors: list[Stored],
    wanted: Mapping[str, tuple[tuple[int, ...], bool]],
    kind: str,
    seed: int,
    shard_bytes: int,
) -> tuple[tuple[str, ...], int]:
    """All weight files and, where there are several, their index; the names, and the bytes of all tensors."""
    import torch

    width = getattr(torch, kind).itemsize
    shards: list[list[tuple[Stored, int]]] = [[]]
    filled = 0
    for tensor in tensors:
        length = _count(tensor.shape) * (width if tensor.is_float else 8)
        if shards[-1] and filled + length > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((tensor, length))
        filled += length
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / file, shard, wanted, kind, seed)
        placed |= {tensor.name: file for tensor, _ in shard}
    total = sum(length for shard in shards for _, length in shard)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return tuple(dict.fromkeys(placed.values())), total


def _write_shard(
    path: Path,
    shard: list[tuple[Stored, int]],
    wanted: Mapping[str, tuple[tuple[int, ...], bool]],
    kind: str,
    seed: int,
) -> None:
    """One safetensors file, a piece of a tensor at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor, length in shard:
        code = CODES[kind] if tensor.is_float else CODES["int64"]
        header[tensor.name] = {
            "dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, offset + length]
        }  # fmt: skip
        offset += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor, _ in shard:
            for part in tensor.parts:
                shape, is_float = wanted[part]
                rows = tensor.shape[0] if len(tensor.parts) == 1 and shape else None
                for piece in numbers(part, shape, is_float, kind, seed, rows):
                    out.write(piece)


def numbers(
    name: str, shape: tuple[int, ...], is_float: bool, kind: str, seed: int, rows: int | None = None
) -> Iterator[memoryview]:
    """The bytes of one parameter, or of its first `rows`, in pieces.

    Norms are ones, statistics of a norm those of nothing seen, the rest a narrow bell around zero.
    """
    import torch

    dtype = getattr(torch, kind) if is_float else torch.int64
    whole = shape if rows is None else (rows, *shape[1:])
    row = _count(whole[1:]) if whole else 1
    left = whole[0] if whole else 1
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    most = max(1, CHUNK // max(row, 1))
    constant = _constant(name, shape, is_float)
    while left > 0:
        count = min(left, most)
        if constant is None:
            piece = torch.empty(count * row).normal_(0, DEVIATION, generator=generator).to(dtype)
        else:
            piece = torch.full((count * row,), constant, dtype=dtype)
        yield piece.view(torch.uint8).numpy().data.cast("B")
        left -= count


def _constant(name: str, shape: tuple[int, ...], is_float: bool) -> float | None:
    last, before = name.rpartition(".")[2], name.rpartition(".")[0].rpartition(".")[2]
    if not is_float or last == "running_mean":
        return 0
    if last == "running_var" or (len(shape) == 1 and last == "weight"):
        return 1  # a vector of weights belongs to a norm
    return LAYER_SCALE if "lambda" in last or "lambda" in before else None


def _write_settings(folder: Path, of: Family, config: Any, published: dict[str, Any], layout: str) -> None:
    """config.json and what a layout has beside its weights."""
    text = config.get_text_config()
    ends = {key: getattr(text, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    told = {key: value for key, value in ends.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if layout == "published":
        (folder / "config.json").write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
        return
    config.architectures = [of.model_class().__name__]
    config.save_pretrained(folder)
    if layout in of.other_layouts and of.other_files is not None:
        of.other_files(folder, folder, config, layout, None)
