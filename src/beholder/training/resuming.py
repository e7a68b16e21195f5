"""What an output folder says of the run that it holds: how far it came, and with which recipe."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from beholder.core.errors import ConfigError
from beholder.training.processes import world
from beholder.training.stages import Recipe

log = logging.getLogger("beholder")
# Written last into a checkpoint folder: without it the folder was cut off while being written.
COMPLETE = "complete"
RECIPE = "recipe.json"
SPREAD = "pytorch_model_fsdp.bin"  # accelerate's name for what FSDP2 leaves in a checkpoint
# What may change between two halves of a run without changing a number that it computes.
FREE = (
    "about", "output", "workers", "save_every", "keep", "log_every", "geometry", "report_to", "sample_every",
    "samples",
)  # fmt: skip


def newest_checkpoint(output: Path) -> Path | None:
    """The last checkpoint that was written to its end; folders cut off by a kill are removed."""
    found = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    for folder in found:
        if not (folder / COMPLETE).exists():
            log.warning("removing %s: it was cut off while being written", folder)
            shutil.rmtree(folder)
    return next((folder for folder in reversed(found) if folder.exists()), None)


def is_finished(checkpoint: Path, recipe: Recipe) -> bool:
    """Whether the run had nothing left to do but write the trained model."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"] >= (recipe.steps or state["max_steps"])


def begin(recipe: Recipe, *, accept_changes: bool = False) -> Path | None:
    """Note the recipe in its output folder; returns the checkpoint to go on from, None for a fresh run.

    A run goes on with the recipe that it began with: anything else is an error with the values, unless
    `accept_changes` is given, which logs them.
    """
    recipe.output.mkdir(parents=True, exist_ok=True)
    noted = recipe.output / RECIPE
    checkpoint = newest_checkpoint(recipe.output)
    if checkpoint is not None and noted.is_file():
        before = as_written_now(json.loads(noted.read_text(encoding="utf-8")))
        if changed := list(differences(before, recipe.model_dump(mode="json"))):
            told = "; ".join(changed)
            if not accept_changes:
                raise ConfigError(
                    f"{recipe.output} holds a run with another recipe: {told}; "
                    "give --accept-changes to go on with the new values, or another output"
                )
            log.warning("going on with another recipe: %s", told)
    if checkpoint is not None and not is_finished(checkpoint, recipe):
        refuse_another_spreading(checkpoint, recipe)
    noted.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return checkpoint


def refuse_another_spreading(checkpoint: Path, recipe: Recipe) -> None:
    """`ConfigError` where several processes spread the model with FSDP2 and these do not, or the reverse."""
    was, now = (checkpoint / SPREAD).is_file(), recipe.sharding == "fsdp2" and world() > 1
    if was and not now:
        raise ConfigError(
            f"{checkpoint} was written by several processes with sharding=fsdp2 and opens in such a run; "
            f"here {world()} have sharding={recipe.sharding}"
        )
    if now and not was:
        raise ConfigError(
            f"{checkpoint} was written without FSDP2, so {world()} processes with sharding=fsdp2 cannot go "
            "on from it; set sharding=none, or another output"
        )


def as_written_now(noted: dict[str, Any]) -> dict[str, Any]:
    """A noted recipe with the settings that did not exist then at their defaults, which is what they were."""
    try:
        return Recipe(**noted).model_dump(mode="json")
    except (ValidationError, ConfigError):  # it has a setting that is gone: compared as it stands
        return noted


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """`key was OLD and is NEW` for each setting that changes what the run computes."""
    for key in sorted(before.keys() | now.keys()):
        if key not in FREE and before.get(key) != now.get(key):
            yield f"{key} was {json.dumps(before.get(key))} and is {json.dumps(now.get(key))}"
