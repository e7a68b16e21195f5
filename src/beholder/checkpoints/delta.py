"""Weights published as differences from a base model: made and applied.

Sums and differences are made in the number format of the difference, as in llava/model/apply_delta.py and
make_delta.py (haotian-liu/LLaVA, c121f04). A vocabulary may have grown: then the base's rows come first.
One weight file at a time is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beholder.checkpoints.assembled import Files
from beholder.checkpoints.beside import copy_other_files
from beholder.checkpoints.findings import some
from beholder.checkpoints.kept import COMPUTED
from beholder.checkpoints.new_folder import new_folder
from beholder.checkpoints.reader import INDEX, SINGLE, Contents, read_contents
from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Step = Literal["apply", "make"]


@dataclass(frozen=True)
class Summed:
    """What was written: so many tensors with the base, and those that the base does not have as they are."""

    target: Path
    tensors: int
    own: tuple[str, ...]
    grown: tuple[str, ...]


def combine(
    step: Step, folder: Path, base: Path, target: Path, *, own: Sequence[str], growing: Sequence[str]
) -> Summed:
    """`apply` the differences in `folder` to `base`, or `make` those of the whole model in `folder` from it.

    Tensors whose names begin with one of `own` need not be in the base; those named in `growing` may have
    more rows or columns than there. Everything else must be in both with one shape.
    """
    ours, theirs = _without_computed(read_contents(folder)), _without_computed(read_contents(base))
    shared = [name for name in ours.tensors if name in theirs.tensors]
    apart = tuple(name for name in ours.tensors if name not in theirs.tensors)
    if odd := [name for name in apart if not name.startswith(tuple(own))]:
        raise CheckpointError(f"{base} is not the base model: it lacks {len(odd)} tensors, {some(odd)}")
    if lost := [name for name in theirs.tensors if name not in ours.tensors]:
        raise CheckpointError(f"{folder} lacks {len(lost)} tensors of its base model, {some(lost)}")
    other = [name for name in shared if ours.tensors[name].shape != theirs.tensors[name].shape]
    if odd := [name for name in other if name not in growing or not _holds(ours, theirs, name)]:
        raise CheckpointError(
            f"{base} is not the base model: {len(odd)} tensors have another shape, "
            + some(
                f"{name} {list(theirs.tensors[name].shape)} and {list(ours.tensors[name].shape)}"
                for name in odd
            )
        )
    with new_folder(target) as partial:
        (partial / "config.json").write_bytes((folder / "config.json").read_bytes())
        copy_other_files(folder, partial)
        _write(step, ours, theirs, partial)
    return Summed(target, len(shared), apart, tuple(other))


def _without_computed(contents: Contents) -> Contents:
    """Without tables that follow from the configuration: a difference of them is no table any more."""
    kept = {name: header for name, header in contents.tensors.items() if not name.endswith(COMPUTED)}
    return replace(contents, tensors=kept)


def _holds(ours: Contents, theirs: Contents, name: str) -> bool:
    """Whether a tensor has room for the base's."""
    mine, base = ours.tensors[name].shape, theirs.tensors[name].shape
    return len(mine) == len(base) and all(have >= want for have, want in zip(mine, base, strict=True))


def _write(step: Step, ours: Contents, theirs: Contents, folder: Path) -> None:
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    mine, base = Files(ours), Files(theirs)
    placed: dict[str, str] = {}
    for number, file in enumerate(ours.files, start=1):
        shard = SINGLE if len(ours.files) == 1 else f"model-{number:05}-of-{len(ours.files):05}.safetensors"
        held: dict[str, Tensor] = {}
        for name, header in ours.tensors.items():
            if header.file == file:
                tensor = mine.read(header, name).clone()
                if name in theirs.tensors:
                    _add(tensor, base.read(theirs.tensors[name], name), 1 if step == "apply" else -1)
                held[name] = tensor
        save_file(held, folder / shard, metadata={"format": "pt"})
        placed |= dict.fromkeys(held, shard)
    if len(ours.files) > 1:
        size = sum(tensor.bytes for tensor in ours.tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _add(tensor: Tensor, base: Tensor, sign: int) -> None:
    """Add to the first rows and columns, in the tensor's own format."""
    corner = tensor[tuple(slice(side) for side in base.shape)]
    corner += sign * base.to(tensor.dtype)
