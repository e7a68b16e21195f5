"""Folders of adapters that training leaves: what they hold, which model they belong to, putting them on it.

Such a folder holds PEFT's two files, under our names of the layers, `trained.safetensors` with what was
trained in full beside them, and `adapter.json`: the base model with the hash of its weights, and the recipe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.core.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS, BESIDE, STORY = (
    "adapter_config.json", "adapter_model.safetensors", "trained.safetensors", "adapter.json",
)  # fmt: skip
ADAPTER = "default"
MARKS = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.", ".lora_embedding_")


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter that training left, and no model."""
    return (folder / STORY).is_file() and not (folder / "config.json").is_file()


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter is part of an adapter."""
    return any(mark in name for mark in MARKS)


def read_story(folder: Path) -> dict[str, Any]:
    """The folder's `adapter.json`; empty where there is none."""
    if not (folder / STORY).is_file():
        return {}
    try:
        return dict(json.loads((folder / STORY).read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / STORY} is not a JSON object ({error})") from error


def base_of(folder: Path, given: str | Path | None = None) -> str | Path:
    """The model that an adapter belongs to: the one given, else the one it was trained on."""
    base = given or read_story(folder).get("base")
    if not base:
        raise CheckpointError(f"{folder / STORY} does not name the adapter's base model; give it with --base")
    return base


def refuse_idle(tensors: dict[str, Tensor], place: Path) -> None:
    """Raise a `CheckpointError` if the adapters change nothing: every second half is zero."""
    seconds = [tensor for name, tensor in tensors.items() if "lora_B" in name or "lora_embedding_B" in name]
    if seconds and not any(bool(tensor.any()) for tensor in seconds):
        raise CheckpointError(
            f"the adapter in {place} changes nothing: all {len(seconds)} second halves (lora_B) are zero; "
            "it was saved before it was trained, or with the wrong tensors"
        )


def load(model: Any, folder: Path, base_hash: str | None = None) -> None:
    """Put a saved adapter folder on its base model; `base_hash` is checked where it is given."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError.of("opening an adapter", "train") from error
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no adapter folder: it has no {name}")
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    tensors = load_file(folder / WEIGHTS)
    refuse_idle(tensors, folder)
    story = read_story(folder)
    if base_hash and story.get("base_sha256") not in (None, base_hash):
        raise CheckpointError(
            f"the adapter in {folder} was trained on {story.get('base')} with weights "
            f"{story['base_sha256'][:12]}, and these are {base_hash[:12]}"
        )
    opens: Any = LoraConfig
    config = opens.from_pretrained(str(folder))
    model.add_adapter(config, adapter_name=ADAPTER)
    fill(model, tensors, folder)
    if (folder / BESIDE).is_file():
        fill_beside(model, load_file(folder / BESIDE), folder)


def fill(model: nn.Module, tensors: dict[str, Tensor], place: Path) -> None:
    """Copy adapters' tensors (PEFT's names) into the model; all of them, and all that it has."""
    known = {name: parameter for name, parameter in model.named_parameters() if is_adapter_parameter(name)}
    by_saved_name = {saved_name(name): parameter for name, parameter in known.items()}
    if wrong := sorted(by_saved_name.keys() ^ tensors.keys()):
        raise CheckpointError(f"the adapter in {place} does not fit its model: {len(wrong)}, {wrong[:3]}")
    import torch

    with torch.no_grad():
        for name, tensor in tensors.items():
            by_saved_name[name].copy_(tensor)


def saved_name(name: str) -> str:
    """What PEFT calls a parameter of an adapter in its file."""
    name = name.replace(f".{ADAPTER}", "")
    return "base_model.model." + name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")


def fill_beside(model: nn.Module, tensors: dict[str, Tensor], place: Path) -> None:
    """Copy what was trained in full."""
    known = {name.replace(".base_layer.", "."): p for name, p in model.named_parameters()}
    if unknown := sorted(tensors.keys() - known.keys()):
        raise CheckpointError(f"{place} has tensors that the model does not: {unknown[:3]}")
    import torch

    with torch.no_grad():
        for name, tensor in tensors.items():
            known[name].copy_(tensor)
