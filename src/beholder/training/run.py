"""From a recipe to a trained folder: opens the model and processor it starts from and calls the trainer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from beholder import families
from beholder.checkpoints import loader
from beholder.core.errors import MissingExtraError
from beholder.core.hub import find_checkpoint
from beholder.training.stages import Recipe, freeze

NEEDED = ("accelerate", "tensorboard")  # what the Trainer asks for when it starts, of the extra `train`


def open_start(recipe: Recipe) -> tuple[Any, Any]:
    """The model (float32, on the CPU: the Trainer moves it) and processor that the recipe starts from."""
    if any(find_spec(package) is None for package in NEEDED):
        raise MissingExtraError.of("training", "train")
    folder = find_checkpoint(recipe.model)
    family = families.identify_folder(folder)
    model = loader.open_model(folder, family, device=torch.device("cpu"), dtype=torch.float32)
    return model, family.processor_class().from_pretrained(folder)


def plan(recipe: Recipe, model: Any) -> str:
    """What will run: the resolved recipe and the parameters of the opened model that it trains."""
    freeze(model, recipe)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    parts = ", ".join(recipe.trainable)
    return f"{recipe.model_dump_json(indent=1)}\ntrains {trained:,} of {total:,} parameters ({parts})"


def run(recipe: Recipe, start: tuple[Any, Any] | None = None, *, accept_changes: bool = False) -> Path:
    """Train what `open_start` gave, or open it first; returns the folder of the trained model.

    A run that was cut off goes on; `accept_changes` lets it go on with a recipe that has changed since.
    """
    from beholder.training.trainer import train

    return train(recipe, *(start or open_start(recipe)), accept_changes=accept_changes)
