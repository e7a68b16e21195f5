"""Folds an adapter of `beholder train`, which may be on any part of any family, into its base model.

Such an adapter is for parameters by our names, so PEFT merges it in memory; the whole is written in our
layout, converted, and proved as every other merge is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.checkpoints.adapter_folder import base_of, is_adapter_parameter
from beholder.checkpoints.adapter_folder import load as put_adapter
from beholder.checkpoints.beside import copy_other_files
from beholder.checkpoints.loader import check, open_model, stored_dtype
from beholder.checkpoints.merge import AskedFamily, Proof, compared, logits_of
from beholder.checkpoints.writer import Conversion, convert
from beholder.core.errors import ConfigError
from beholder.core.hub import find_checkpoint
from beholder.core.records import hash_weights

if TYPE_CHECKING:
    import torch

SHARD = "5GB"
INSIDE = ".base_layer."  # what PEFT puts into the name of a weight that has an adapter


def merge_trained(
    folder: Path,
    target: Path,
    identify: Callable[[Path], AskedFamily],
    question: Any,
    *,
    base: str | Path | None = None,
    to: str = "published",
    find: Callable[[str | Path], Path] = find_checkpoint,
) -> tuple[Conversion, Proof]:
    """Write the merged model to the new folder `target`; nothing is left there if the proof fails.

    `find` gives the folder of a model by its name.
    """
    import torch

    if target.exists():
        raise ConfigError(f"{target} exists; give a new folder")
    place = find(base_of(folder, base))
    family = identify(place)
    stored = stored_dtype(check(place, family)[1])
    inputs = family.processor_class().from_pretrained(place).encode(question)
    target.parent.mkdir(parents=True, exist_ok=True)
    before = logits_of(_adapted(place, family, folder, torch.float32), inputs)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.partial-") as partial:
        ours, final = Path(partial) / "ours", Path(partial) / "final"
        _write(_adapted(place, family, folder, stored), place, ours)
        done = convert(ours, final, family, to) if to != "ours" else _as_it_is(ours, final, family)
        after = logits_of(open_model(final, family, device="cpu", dtype=torch.float32), inputs)
        proof = compared(before, after, stored)
        proof.confirm()
        final.rename(target)
    return replace(done, target=target), proof


def _adapted(place: Path, family: AskedFamily, folder: Path, dtype: torch.dtype) -> Any:
    model = open_model(place, family, device="cpu", dtype=dtype)
    put_adapter(model, folder, hash_weights(place))
    return model.eval()


def _write(model: Any, source: Path, folder: Path) -> None:
    """The model with its adapters merged, in our layout."""
    from huggingface_hub import save_torch_state_dict

    for module in model.modules():
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            module.merge(safe_merge=True)
    state = {
        f".{name}".replace(INSIDE, ".")[1:]: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not is_adapter_parameter(name)
    }
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_torch_state_dict(state, folder, max_shard_size=SHARD)
    copy_other_files(source, folder)


def _as_it_is(ours: Path, final: Path, family: AskedFamily) -> Conversion:
    """What `convert` tells of a folder that is in our layout already."""
    from beholder.checkpoints.streams import fingerprint

    plan, contents = check(ours, family)
    shutil.move(ours, final)
    _, moved = check(final, family)
    return Conversion(
        target=final, layout="ours", tensors=len(contents.tensors), files=contents.files, dropped=(),
        is_identical=False, map={name: (name,) for name in contents.tensors},
        checksum=fingerprint(moved, plan),
    )  # fmt: skip
