"""A model that no stage has trained: language model and tower as published, between them random numbers."""

from __future__ import annotations

import json
import logging
import shutil
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from beholder import families
from beholder.core.errors import CheckpointError, ConfigError
from beholder.core.hub import find_checkpoint
from beholder.families.family import Family
from beholder.training.exports import PROJECTOR, STORY, write_projector
from beholder.training.sections import Start

log = logging.getLogger("beholder")


@cache
def geometries() -> dict[str, dict[str, Any]]:
    """Sizes of the published models: name -> family and published configuration."""
    return yaml.safe_load(resources.files("beholder.training").joinpath("geometries.yaml").read_text("utf-8"))


def geometry(name: str) -> tuple[Family, dict[str, Any]]:
    """The family and published configuration under a name."""
    if name not in geometries():
        raise ConfigError(f"there is no geometry {name!r}; known: {', '.join(geometries())}")
    found = geometries()[name]
    return families.family(found["family"]), dict(found["config"])


def weightless(name: str) -> nn.Module:
    """The model of a geometry without memory for its weights."""
    family, config = geometry(name)
    with torch.device("meta"):
        return family.model_class()(family.config_from_published(config, Path()))


def write_start(start: Start, folder: Path, seed: int) -> None:
    """Write the model a first stage begins with; the random part depends on the seed alone."""
    family, config = geometry(start.geometry)
    language = find_checkpoint(start.language_model)
    own = json.loads((language / "config.json").read_text("utf-8"))
    config |= {
        key: own[key] for key in config.keys() & own.keys() if key not in ("model_type", "architectures")
    }
    config["mm_vision_tower"] = tower = _place(start.vision_tower)
    if "mm_projector_type" not in config:
        raise ConfigError(f"{family.title} is not put together from a language model and a tower")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is there and is no model, so the first stage's cannot be written; remove it, or give "
            "another model"
        )
    # Under its own name it is whole: a run that finds it takes it as it is.
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write = _write_llava if family.name in ("llava", "internvl_chat") else _write_whole
    write(family, config, part, language, seed)
    told = {"language_model": str(_place(start.language_model)), "vision_tower": str(tower), "seed": seed}
    (part / STORY).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    part.rename(folder)


def _place(name: str) -> str:
    """A folder by its whole path, so that it is found from anywhere; a hub id as it is."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _write_llava(family: Family, config: dict[str, Any], folder: Path, language: Path, seed: int) -> None:
    """A folder as LLaVA's first stage leaves it: a projector, here untrained, and the names of the rest."""
    ours = family.config_from_published(config, folder)
    with torch.device("meta"):
        model = family.model_class()(ours)
    projector = model.get_submodule(PROJECTOR.rstrip(".")).to_empty(device="cpu")
    torch.manual_seed(seed)
    for module in projector.modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.reset_parameters()  # as torch makes them, which is what LLaVA does
    state = {f"{PROJECTOR}{name}": value for name, value in projector.state_dict().items()}
    write_projector(model, state, folder, str(language.resolve()), folder)


def _write_whole(family: Family, config: dict[str, Any], folder: Path, language: Path, seed: int) -> None:
    """The whole model with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model: Any = family.model_class()(family.config_from_published(config, folder))
    words: Any = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    model.model.language_model.load_state_dict(words.model.state_dict())
    model.lm_head.load_state_dict(words.lm_head.state_dict())
    tower = {f"model.vision_tower.{name}" for name in model.model.vision_tower.state_dict()}
    if not (fill := getattr(model, "fill_missing", None)) or fill(tower) != tower:
        raise CheckpointError(f"{family.title} has no way to take its tower from {config['mm_vision_tower']}")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(language).save_pretrained(folder)
    family.processor_class().from_pretrained(folder).save_pretrained(folder)
