"""What a stage leaves in the layouts of LLaVA's code: a projector, or adapters with what is beside them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from beholder.training import adapters
from beholder.training.stages import Recipe

log = logging.getLogger("beholder")
PROJECTOR = "model.multi_modal_projector."
WRAPPING = "base_model.model."
STORY = "start.json"  # what an untrained model was put together from


def family_of(model: Any) -> Any:
    """The family of an opened model, from its configuration."""
    from beholder import families

    known = (families.family(name) for name in families.FAMILIES)
    return next(kind for kind in known if kind.claims(model.config.to_dict()))


def has_llava_layout(model: Any) -> bool:
    """Whether the model is of LLaVA's system."""
    return model.config.model_type in ("llava", "beholder_llava")


def published_tensors(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the published names of our parameters."""
    names = family_of(model).key_table(model.config)
    return {names.theirs(name): tensor for name, tensor in tensors.items()}


def write_projector(
    model: Any, state: dict[str, Tensor], folder: Path, base: str | None, origin: Path
) -> None:
    """Stage 1 as published: `mm_projector.bin` (and `.safetensors`) with a `config.json` that names its base.

    Published names, one file, no language model (safe_save_model_for_hf_trainer in llava/train/train.py,
    haotian-liu/LLaVA, c121f04).
    """
    own = {name: value for name, value in state.items() if name.startswith(PROJECTOR)}
    tensors = {name: value.cpu().contiguous() for name, value in published_tensors(model, own).items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "mm_projector.bin")
    save_file(tensors, folder / "mm_projector.safetensors", metadata={"format": "pt"})
    write_config(model, folder, origin, {"_name_or_path": base, "tune_mm_mlp_adapter": True})


def write_config(model: Any, folder: Path, origin: Path, more: dict[str, Any]) -> None:
    """The published `config.json` of the model, with more keys; its tower is looked for from `origin`."""
    config = family_of(model).config_to_published(model.config)
    told = config | {key: value for key, value in more.items() if value is not None}
    tower = origin / str(told.get("mm_vision_tower") or "")
    if told.get("mm_vision_tower") and tower.is_dir():
        told["mm_vision_tower"] = str(tower.resolve())
    (folder / "config.json").write_text(json.dumps(told, indent=2) + "\n", "utf-8")


def write_llava_adapter(
    model: Any, recipe: Recipe, folder: Path, base: str, state: dict[str, Tensor] | None = None
) -> bool:
    """Adapters as LLaVA saves them; False where its layout has no place for them: on another part than the
    language model, or DoRA's, whose lengths its code does not know.

    `adapter_model.safetensors` under published names within PEFT's wrapping, `non_lora_trainables.bin` with
    what was trained in full, and the published `config.json`.
    """
    found = adapters.adapter_tensors(model, state)
    inside = f"{WRAPPING}model.language_model."
    if recipe.lora is None or recipe.lora.dora or not all(name.startswith(inside) for name in found):
        return False
    names = family_of(model).key_table(model.config)
    written: dict[str, Tensor] = {}
    for name, tensor in found.items():
        module, mark, side = name.removeprefix(WRAPPING).rpartition(".lora_")
        theirs = names.theirs(f"{module}.weight").removesuffix(".weight")
        written[f"{WRAPPING}{theirs}{mark}{side}"] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    save_file(written, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    full = published_tensors(model, adapters.beside(model, state))
    torch.save(
        {f"{WRAPPING}{name}": value for name, value in full.items()}, folder / "non_lora_trainables.bin"
    )
    config = model.peft_config[adapters.ADAPTER].to_dict()
    config["target_modules"] = sorted({name.rpartition(".")[2] for name in config["target_modules"]})
    config |= {"base_model_name_or_path": base, "inference_mode": True, "task_type": "CAUSAL_LM"}
    (folder / adapters.CONFIG).write_text(json.dumps(config, indent=2, default=str) + "\n", "utf-8")
    write_config(model, folder, Path(recipe.model), {"_name_or_path": base})
    return True


def trains_projector_alone(model: nn.Module) -> bool:
    """Whether this is a stage like LLaVA's first: the projector learns and nothing else."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return bool(trained) and all(name.startswith(PROJECTOR) for name in trained)


def base_language_model(folder: Path) -> str | None:
    """The language model that the model in a folder began with, where it is noted."""
    if not (folder / STORY).is_file():
        return None
    return json.loads((folder / STORY).read_text("utf-8")).get("language_model")
