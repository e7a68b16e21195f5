"""The vision tower of a checkpoint that holds none: it comes from the base tower that the config names.

The published checkpoints hold their tower, and then that one is used; the original always took the base.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPVisionModel, PreTrainedModel

from beholder.checkpoints.strict import without_report
from beholder.core.errors import CheckpointError
from beholder.core.hub import HUB_ID, find_checkpoint


def base_tower(name: str | None, folder: str | Path | None) -> Path:
    """The folder of the tower that a checkpoint names, fetched if need be; CheckpointError if nowhere."""
    if not name:
        raise CheckpointError(
            "the checkpoint holds no vision tower and its config.json names none; "
            "set mm_vision_tower (base_vision_tower in our layout) to a folder or a hub id"
        )
    place = Path(folder or "") / name
    if not place.is_dir() and not HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"the checkpoint holds no vision tower, and its base tower {name!r} "
            "is neither a folder nor a hub id"
        )
    try:
        return find_checkpoint(str(place) if place.is_dir() else name)
    except CheckpointError as error:
        raise CheckpointError(
            f"the checkpoint holds no vision tower, and its base tower {name!r} cannot be opened: {error}"
        ) from error


def fill_from_base(tower: PreTrainedModel, name: str | None, folder: str | None) -> None:
    """Copy the weights of the base tower `name` into `tower`: a hub id, or a path starting at `folder`."""
    where = base_tower(name, folder)
    try:
        with without_report():
            base, info = CLIPVisionModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                where,
                dtype=tower.dtype,
                config=tower.config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"the checkpoint holds no vision tower, and its base tower {name!r} cannot be opened: {first}"
        ) from error
    # A whole CLIP holds a text model besides; only what the tower needs counts.
    absent = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if absent:
        raise CheckpointError(
            f"the base vision tower {name!r} does not fit: {len(absent)} tensors, first {absent[0]}"
        )
    with torch.no_grad():
        for parameter, value in zip(tower.parameters(), base.parameters(), strict=True):
            parameter.copy_(value)
