"""Opens a model with transformers alone, but an unfilled parameter is an error and not a random number."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.checkpoints.findings import Finding
from beholder.checkpoints.quantize import settings_for
from beholder.checkpoints.reader import read_contents
from beholder.checkpoints.strict import SHOWN, without_report
from beholder.core.device import resolve_device, resolve_dtype
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from beholder.families.family import Family

log = logging.getLogger("beholder")


def open_as_it_is(
    family: Family,
    folder: Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base: str | Path | None = None,
    quantize: str | None = None,
) -> PreTrainedModel:
    """The folder's model, ready to run; CheckpointError where a parameter is missing or has another shape.

    Tensors that the model does not use are named in the log: transformers knows of many that are harmless
    and no list of ours could tell the rest from them.
    """
    from transformers import AutoConfig
    from transformers.utils.import_utils import is_accelerate_available

    from beholder.checkpoints import narrow_quantizer
    from beholder.checkpoints.loader import stored_dtype

    narrow_quantizer.register()  # what was saved in our own form opens again
    if base is not None:
        raise ConfigError(f"base= is for adapters and projectors of known families; {family.title} has none")
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place, stored_dtype(read_contents(folder)))
    direct: dict[str, Any] = {}
    if place.type != "cpu" and is_accelerate_available():
        direct = {"device_map": {"": place}}
    if quantize is not None:
        config = AutoConfig.from_pretrained(folder)
        direct["quantization_config"] = settings_for(quantize, family.model_class(), config, place)
    with without_report():
        model, info = cast("Any", family.model_class()).from_pretrained(
            folder,
            dtype=kind,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # or transformers raises before the names can be told
            **direct,
        )
    _confirm(folder, family.title, info)
    return model if direct else model.to(place)


def symptoms(family: Family, folder: Path) -> tuple[list[Finding], list[str]]:
    """What is wrong with the tensors, told from their headers: the model is opened without memory."""
    from transformers.utils.import_utils import is_accelerate_available

    if not is_accelerate_available():
        return [], [
            "which tensors the model needs is not looked at without accelerate (pip install accelerate)"
        ]
    try:
        read_contents(folder)
        with without_report():
            _, info = cast("Any", family.model_class()).from_pretrained(
                folder, device_map={"": "meta"}, output_loading_info=True, ignore_mismatched_sizes=True
            )
        _confirm(folder, family.title, info)
    except CheckpointError as error:
        return [
            Finding(str(error), "fetch the checkpoint again, with the config.json that belongs to it")
        ], []
    return [], []


def _confirm(folder: Path, title: str, info: dict[str, Any]) -> None:
    """Everything that the model has came from the files."""
    shapes = [
        f"{name} is {list(have)} and must be {list(want)}" for name, have, want in info["mismatched_keys"]
    ]
    kinds = (
        ("missing", sorted(info["missing_keys"])),
        ("of another shape", sorted(shapes)),
        ("in error", sorted(map(str, info.get("error_msgs") or ()))),
    )
    problems = [f"{len(names)} tensors {kind}: {'; '.join(names[:SHOWN])}" for kind, names in kinds if names]
    if problems:
        raise CheckpointError(f"{folder} does not fit {title}: " + ", ".join(problems))
    if unused := sorted(info["unexpected_keys"]):
        log.warning("%d stored tensors are not used: %s", len(unused), ", ".join(unused[:SHOWN]))
