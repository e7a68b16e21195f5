"""Writes weight files whose linears are narrow, one matrix at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from beholder.checkpoints.narrow import CODES, NARROW_PARTS, WEIGHT, Choice, narrow_linears
from beholder.checkpoints.shards import DTYPE_BYTES, LENGTH_BYTES, ShardHeader, TensorHeader
from beholder.checkpoints.splits import Pieces, header_of
from beholder.checkpoints.streams import mean_rows, read_bytes, tensor_of
from beholder.checkpoints.weight_files import file_name, plan_shard, write_index
from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.checkpoints.calibrated import Stored
    from beholder.checkpoints.reader import Contents
    from beholder.core.narrow import Narrow


def write_narrow(
    contents: Contents, pieces: Pieces, config: Any, model_class: Any, choice: Choice, folder: Path,
    fitted: Mapping[str, Stored],
) -> tuple[tuple[str, ...], Pieces]:  # fmt: skip
    """Files as many as the source has, and what their tensors are made of; `config` gets the choice.

    Weights that are not `fitted` are searched for. ConfigError where some were fitted that have no place, or
    in another form.
    """
    forms = _forms(config, model_class, choice)
    if idle := sorted(fitted.keys() - forms.keys()):
        raise ConfigError(
            f"weights were fitted that are not made narrow: {', '.join(idle[:3])}; fit those of this model"
        )
    by_file: dict[str, dict[str, TensorHeader]] = {}
    made_of: dict[str, Any] = {}
    for name, stretches in pieces.items():
        header = header_of(stretches, contents.tensors, name)
        tensors = _headers(name, header, forms)
        by_file.setdefault(header.file, {}).update(tensors)
        made_of |= dict.fromkeys(tensors, stretches)
    shards: list[ShardHeader] = []
    for number, old in enumerate(sorted(by_file), start=1):
        # Wide numbers come first, so that each begins where a program may read it in place.
        ordered = sorted(by_file[old].items(), key=lambda item: (-DTYPE_BYTES[item[1].dtype], item[1].begin))
        placed = {
            name: replace(tensor, begin=at, end=at + tensor.bytes)
            for at, (name, tensor) in enumerate(ordered)
        }
        shards.append(plan_shard(file_name(number, len(by_file)), placed))
        _write(contents, shards[-1], pieces, forms, folder, fitted)
    config.quantization_config = choice.to_dict()
    return write_index(shards, folder), made_of


def _forms(config: Any, model_class: Any, choice: Choice) -> dict[str, Narrow]:
    """The form of each weight that is made narrow, by the weight's name."""
    import torch
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = model_class(config)
    return {
        f"{name}{WEIGHT}": choice.narrow(is_head=is_head) for name, is_head in narrow_linears(model).items()
    }


def _headers(name: str, header: TensorHeader, forms: Mapping[str, Narrow]) -> dict[str, TensorHeader]:
    """What is written for a tensor: itself, or codes and scales."""
    if name not in forms:
        return {name: header}
    form, (rows, columns) = forms[name], header.shape
    shapes = form.code_shape(rows, columns), form.scale_shape(rows, columns)
    made: dict[str, TensorHeader] = {}
    for part, shape, kind in zip(NARROW_PARTS, shapes, CODES[form.weights], strict=True):
        one = replace(header, shape=shape, dtype=kind)
        made[name.removesuffix(WEIGHT) + part] = replace(one, end=one.begin + one.size * DTYPE_BYTES[kind])
    return made


def _write(
    contents: Contents, shard: ShardHeader, pieces: Pieces, forms: Mapping[str, Narrow], folder: Path,
    fitted: Mapping[str, Stored],
) -> None:  # fmt: skip
    text = shard.text.encode()
    with (folder / shard.name).open("wb") as out:
        out.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for name, tensor in shard.tensors.items():
            stem, _, part = name.rpartition(".")
            weight = f"{stem}{WEIGHT}"
            if name in pieces:
                out.seek(tensor.begin)
                for stretch in pieces[name]:
                    for chunk in read_bytes(contents, stretch):
                        out.write(chunk)
                    if stretch.fill:
                        out.write(mean_rows(contents, stretch))
            elif f".{part}" == NARROW_PARTS[0]:
                form = forms[weight]
                made = fitted.get(weight) or _quantized(
                    tensor_of(contents, pieces[weight], weight), weight, form
                )
                for place, one in zip((tensor, shard.tensors[f"{stem}{NARROW_PARTS[1]}"]), made, strict=True):
                    if tuple(one.shape) != tuple(place.shape):
                        raise ConfigError(
                            f"{weight} was fitted as {tuple(one.shape)} where {tuple(place.shape)} is "
                            f"written; fit it in {form.weights} with groups of {form.group}"
                        )
                    _put(out, place, one)


def _quantized(weight: Tensor, name: str, form: Narrow) -> tuple[Tensor, Tensor]:
    from beholder.core.narrow import quantize

    try:
        return quantize(weight, form)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _put(out: BinaryIO, place: TensorHeader, tensor: Tensor) -> None:
    import torch

    out.seek(place.begin)
    out.write(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
