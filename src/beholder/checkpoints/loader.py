"""Opens a checkpoint as a model if the two fit: every parameter filled once, every tensor accounted for.

The check needs headers alone, so a checkpoint that does not fit is refused before a weight is read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.checkpoints.accounting import SHOWN, account
from beholder.checkpoints.lora import confirm
from beholder.checkpoints.narrow import NARROW_PARTS, confirm_numbers, hint
from beholder.checkpoints.planning import ModelFamily, Plan, plan
from beholder.checkpoints.quantize import BITS, settings_for
from beholder.checkpoints.reader import Contents, read_contents
from beholder.checkpoints.shards import DTYPE_CODES
from beholder.core.device import resolve_device, resolve_dtype
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger("beholder")

LARGE_BYTES = 2**30  # from here on loading takes long enough to want a progress bar


def check(
    folder: Path,
    family: ModelFamily,
    *,
    base: str | Path | None = None,
    config: PreTrainedConfig | None = None,
    model_class: Any = None,
) -> tuple[Plan, Contents]:
    """Raise a `CheckpointError` unless the folder's tensors fill the family's model exactly.

    Where the family says so, what the folder leaves out is read from its `base` and its tower.
    """
    wanted = plan(folder, family, config=config, model_class=model_class)
    contents = contents_of(folder, family, base)
    if (complete := getattr(family, "complete", None)) is not None:
        contents = complete(contents, wanted.config, folder, wanted.layout)
    found = account(contents, wanted)
    if not found.holds:
        raise CheckpointError(
            f"{folder} does not fit {family.title}: of {len(wanted.wanted)} tensors "
            + ", ".join(found.problems())
            + hint(wanted, (name for name, _, _ in found.mismatched))
        )
    confirm_numbers(contents, wanted)
    if contents.adapter is not None:
        confirm(contents.adapter, {name: tensor.shape for name, tensor in contents.tensors.items()})
    if found.dropped:
        log.info("%d stored tensors are not used: %s", len(found.dropped), ", ".join(found.dropped[:SHOWN]))
    return wanted, contents


def contents_of(folder: Path, family: ModelFamily, base: str | Path | None = None) -> Contents:
    """What a folder holds, together with the model that it changes where it is an adapter or a projector."""
    if (read := getattr(family, "read", None)) is not None:
        return read(folder, base)
    if base is not None:
        raise ConfigError(f"{folder} is a whole {family.title} model, which has no base; leave the base out")
    return read_contents(folder)


def stored_dtype(contents: Contents) -> torch.dtype:
    """The number format that most of the numbers are stored in, those that are stored narrow aside."""
    import torch

    sizes: Counter[str] = Counter()
    for name, tensor in contents.tensors.items():
        stem, _, part = name.rpartition(".")
        if f".{part}" not in NARROW_PARTS or f"{stem}{NARROW_PARTS[0]}" not in contents.tensors:
            sizes[tensor.dtype] += tensor.size
    code = max(sizes, key=lambda name: sizes[name])
    return getattr(torch, DTYPE_CODES.get(code, "float32"))


def open_model(
    folder: Path,
    family: ModelFamily,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base: str | Path | None = None,
    quantize: str | None = None,
) -> PreTrainedModel:
    """The folder's model, ready to run; weights stream into a model that was built without memory.

    `base` is the folder or hub id of the model that an adapter or a projector belongs to. `quantize` is
    "8bit" or "4bit", see `quantize.py`, or "int8" or "int4", see `narrow.py`.
    """
    if (opens := getattr(family, "opens", None)) is not None:
        return opens(family, folder, device=device, dtype=dtype, base=base, quantize=quantize)
    wanted, contents = check(folder, family, base=base)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place, stored_dtype(contents))
    log.info("layout: %s, %s", wanted.layout, family.title)
    # Straight to the device where accelerate is there to do it; over the CPU's memory where it is not.
    direct: dict[str, Any] = {"device_map": {"": place}} if place.type != "cpu" and _has_accelerate() else {}
    if quantize is not None:
        if wanted.narrow is not None:
            raise ConfigError(f"{folder} is stored as {wanted.narrow.choice} already; leave quantize out")
        direct["quantization_config"] = settings_for(quantize, family.model_class(), wanted.config, place)
    with _quiet_if_small(contents), said_by(direct.get("quantization_config")):
        model, info = family.model_class().from_checked(
            folder, wanted, contents, dtype=kind, output_loading_info=True, **direct
        )
    _confirm(folder, info)
    return model if "device_map" in direct or quantize in BITS else model.to(place)


@contextmanager
def said_by(settings: Any) -> Generator[None]:
    """What a quantiser had against a weight, which transformers would tell as one of its own troubles."""
    try:
        yield
    except Exception as error:
        if (failure := getattr(settings, "failure", None)) is not None:
            raise failure from error
        raise


def _confirm(folder: Path, info: Mapping[str, Any]) -> None:
    """The check promised that everything fits; transformers must have seen the same."""
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if found := list(info.get(kind) or ()):
            raise CheckpointError(f"{folder} was not loaded completely: {len(found)} {kind}: {found[:SHOWN]}")


def _has_accelerate() -> bool:
    from transformers.utils.import_utils import is_accelerate_available

    return is_accelerate_available()


@contextmanager
def _quiet_if_small(contents: Contents) -> Generator[None]:
    """No progress bar for what is done in a moment."""
    total = sum((contents.folder / name).stat().st_size for name in contents.files)
    if total >= LARGE_BYTES:
        yield
        return
    with without_progress_bars():
        yield


@contextmanager
def without_progress_bars() -> Generator[None]:
    """Let transformers draw none meanwhile."""
    from transformers.utils import logging as theirs

    was_enabled = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            theirs.enable_progress_bar()
