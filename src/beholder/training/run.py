"""From a recipe to a trained folder: opens the model and processor it starts from and calls the trainer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from beholder import families
from beholder.api import checkpoint_folder
from beholder.checkpoints import loader
from beholder.core.errors import BeholderError, CheckpointError, MissingExtraError
from beholder.training.estimates import told
from beholder.training.processes import join, rank, wait_for_all, world
from beholder.training.stages import Recipe

NEEDED = ("accelerate", "tensorboard")  # what the Trainer asks for when it starts, of the extra `train`


def open_start(recipe: Recipe) -> tuple[Any, Any]:
    """The model (float32, on the CPU: the Trainer moves it) and processor that the recipe starts from.

    A first stage's model is put together before, if it is not there yet: by the first of several processes,
    for which the others wait.
    """
    if any(find_spec(package) is None for package in NEEDED):
        raise MissingExtraError.of("training", "train")
    join()
    if recipe.start is not None and rank() == 0 and not (Path(recipe.model) / "config.json").is_file():
        from beholder.training.assemble import write_start

        write_start(recipe.start, Path(recipe.model), recipe.seed)
    wait_for_all()
    folder = checkpoint_folder(recipe.model)
    family = families.identify_folder(folder)
    model = loader.open_model(folder, family, device=torch.device("cpu"), dtype=torch.float32)
    return model, family.processor_class().from_pretrained(folder)


def planned_model(recipe: Recipe) -> Any:
    """The recipe's model without memory for weights: of its own folder, or of the geometry it names."""
    try:
        folder = checkpoint_folder(recipe.model, download=False)
        family = families.identify_folder(folder)
        wanted = loader.plan(folder, family)
        with torch.device("meta"):
            return family.model_class()(wanted.config)
    except BeholderError as error:
        if recipe.geometry is None:
            raise CheckpointError(
                f"{recipe.model} is not here ({error}) and the recipe names no geometry to plan with"
            ) from error
    from beholder.training.assemble import weightless

    return weightless(recipe.geometry)


def rows_known(recipe: Recipe) -> int | None:
    """How many rows an epoch has: counted where they are here, else as many as were published."""
    from beholder.training.sources import sources_of

    try:
        return sum(len(rows) for rows, _ in sources_of(recipe))
    except BeholderError:
        expected = [source.expected for source in recipe.data]
        return sum(filter(None, expected)) if all(expected) else None


def plan(recipe: Recipe, model: Any, rows: int | None = None, processes: int | None = None) -> str:
    """What will run, in words: the parameters that it trains, and what that will take."""
    return told(model, recipe, rows, processes or world())


def run(recipe: Recipe, start: tuple[Any, Any] | None = None, *, accept_changes: bool = False) -> Path:
    """Train what `open_start` gave, or open it first; returns the folder of the trained model.

    A run that was cut off goes on; `accept_changes` lets it go on with a recipe that has changed since.
    """
    from beholder.training.trainer import train

    return train(recipe, *(start or open_start(recipe)), accept_changes=accept_changes)
