"""What a finished stage leaves: the model in our layout or an adapter, and the published files of either."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from beholder.api import checkpoint_folder
from beholder.core.errors import BeholderError
from beholder.core.records import hash_weights
from beholder.training import adapters, exports
from beholder.training.stages import Recipe

log = logging.getLogger("beholder")
MODEL, ADAPTER, PROJECTOR, LLAVA = "model", "adapter", "projector", "llava"


def write_outcome(trainer: Any, model: Any, processor: Any, recipe: Recipe) -> Path:
    """Write it from the first process; returns the folder of the model, or of the adapter."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_spread(trainer) else None
    final = recipe.output / (MODEL if recipe.lora is None else ADAPTER)
    if not trainer.is_world_process_zero():
        return final
    if recipe.lora is not None:
        write_adapter(model, processor, recipe, final, state)
        return final
    model.save_pretrained(final, state_dict=state)
    processor.save_pretrained(final)
    start = Path(recipe.model) / exports.STORY
    if start.is_file():
        shutil.copy(start, final / exports.STORY)
    if exports.has_llava_layout(model) and exports.trains_projector_alone(model):
        base = exports.base_language_model(Path(recipe.model)) or recipe.model
        exports.write_projector(
            model, state or model.state_dict(), recipe.output / PROJECTOR, base, Path(recipe.model)
        )
    return final


def is_spread(trainer: Any) -> bool:
    """Whether the weights must be gathered from all processes; those of a run that had ended are whole."""
    if trainer.is_deepspeed_enabled:
        return trainer.model_wrapped is not trainer.model
    return any(hasattr(parameter, "full_tensor") for parameter in trainer.model.parameters())


def write_adapter(model: Any, processor: Any, recipe: Recipe, final: Path, state: Any) -> None:
    """The adapter folder, and LLaVA's where the model is of its system."""
    try:
        base_hash: str | None = hash_weights(checkpoint_folder(recipe.model))
    except (BeholderError, OSError) as error:
        log.warning("the adapter will not name the hash of its base model: %s", error)
        base_hash = None
    adapters.save(model, recipe, final, base_hash, state)
    processor.save_pretrained(final)
    if exports.has_llava_layout(model):
        base = exports.base_language_model(Path(recipe.model)) or recipe.model
        if not exports.write_llava_adapter(model, recipe, recipe.output / LLAVA, base, state):
            log.info("no folder in LLaVA's layout: it has LoRA, not DoRA, and on the language model alone")
