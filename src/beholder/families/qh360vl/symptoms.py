"""What goes wrong with 360VL's folders in particular: a tower left out that is not where it should be."""

from __future__ import annotations

from pathlib import Path

from beholder.checkpoints.findings import Finding, some
from beholder.checkpoints.planning import plan
from beholder.checkpoints.reader import read_contents, tensor_names
from beholder.core.errors import BeholderError
from beholder.families import family
from beholder.families.qh360vl.layout import TOWER_PREFIX
from beholder.families.qh360vl.tower import base_tower

REMEDY = "fetch the vision tower that config.json names, or put its folder where it says"
WITHIN = "vision_model."  # before the tower's names in files of CLIP


def symptoms(folder: Path, base: str | Path | None) -> tuple[list[Finding], list[str]]:
    """What is wrong, and what is worth knowing."""
    names = tensor_names(folder)
    if not names or any(name.startswith(TOWER_PREFIX) for name in names):
        return [], []
    wanted = plan(folder, family("qh360vl"))
    name = wanted.config.base_vision_tower
    try:
        place = base_tower(name, folder)
        stored = read_contents(place).tensors
    except BeholderError as error:
        return [Finding(str(error), REMEDY)], []
    held = {key.removeprefix(WITHIN): tensor.shape for key, tensor in stored.items()}
    tower = {
        key.removeprefix(TOWER_PREFIX): shape
        for key, shape in wanted.wanted.items()
        if key.startswith(TOWER_PREFIX)
    }
    if wrong := [key for key, shape in tower.items() if held.get(key) != shape]:
        problem = f"{len(wrong)} tensors of the vision tower in {place} are missing or of another shape"
        return [Finding(f"{problem}: {some(wrong)}", REMEDY)], []
    return [], [f"the vision tower comes from {place}"]
