"""What a stage will take, before it runs: parameters trained, memory of each process, time.

Rough on purpose, and told as such: weights, gradients and Adam's moments are counted exactly, activations as
checkpointed or not, time as floating-point operations over what a device reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from beholder.checkpoints.adapter_folder import is_adapter_parameter
from beholder.training.adapters import targets_of
from beholder.training.sections import begins
from beholder.training.stages import Recipe

GIGA = 2**30
# An A100 in bf16 at the 40 % that training large models usually reaches.
DEVICE, OPERATIONS_PER_SECOND = "A100", 0.4 * 312e12
ACTIVATIONS_PER_LAYER = 34  # bytes per position and hidden unit that a layer keeps for its gradients
STATE = {"none": (), "zero1": ("moments",), "zero2": ("moments", "gradients")}


@dataclass(frozen=True)
class Parameters:
    """How many parameters there are: all, those trained, and those that the words of a row meet."""

    total: int
    trained: int
    language: int
    tower: int
    tower_trained: int


def count(model: nn.Module, recipe: Recipe) -> Parameters:
    """Count without weights; adapters that are not there yet are counted from the layers they will join."""
    named = list(model.named_parameters())
    trained = sum(p.numel() for n, p in named if begins(n, recipe.trainable) or is_adapter_parameter(n))
    total = sum(p.numel() for _, p in named)
    if recipe.lora is not None and not any(is_adapter_parameter(name) for name, _ in named):
        rank = recipe.lora.rank
        linears = [cast("nn.Linear", model.get_submodule(name)) for name in targets_of(model, recipe.lora)]
        added = sum(rank * (layer.in_features + layer.out_features) for layer in linears)
        added += sum(layer.out_features for layer in linears) if recipe.lora.dora else 0
        trained, total = trained + added, total + added
    language = sum(p.numel() for n, p in named if "language_model" in n or n.startswith("lm_head"))
    tower = {n: p.numel() for n, p in named if "vision_tower" in n}
    tower_trained = sum(size for n, size in tower.items() if begins(n, recipe.trainable))
    return Parameters(total, trained, language, sum(tower.values()), tower_trained)


def patches(config: Any) -> int:
    """Patches that the tower looks at of one picture, over all its views."""
    side, patch = (
        value[0] if isinstance(value, (list, tuple)) else value
        for value in (config.vision_config.image_size, config.vision_config.patch_size)
    )
    return (side // patch) ** 2 * getattr(config, "views_per_picture", 1)


def memory(model: Any, recipe: Recipe, found: Parameters, processes: int) -> dict[str, float]:
    """Bytes of one process by what they hold."""
    frozen = 2 if recipe.frozen_precision == "bf16" else 4
    held: dict[str, float] = {
        "weights": 4 * found.trained + frozen * (found.total - found.trained),
        "gradients": 4 * found.trained,
        "moments": 8 * found.trained,
    }
    for part in STATE.get(recipe.sharding, ("weights", "moments", "gradients")):
        held[part] /= processes
    text = model.config.text_config
    positions = recipe.rows_at_once(processes) * recipe.max_length
    per_layer = 2 if recipe.gradient_checkpointing else ACTIVATIONS_PER_LAYER
    layers = per_layer * text.num_hidden_layers + ACTIVATIONS_PER_LAYER
    held["activations"] = positions * text.hidden_size * layers
    held["logits"] = positions / 4 * text.vocab_size * 8  # about a quarter of the positions are trained
    return held


def seconds(
    recipe: Recipe, found: Parameters, rows: int | None, processes: int, looked_at: int = 0
) -> float | None:
    """Time on so many devices, each row with a picture of `looked_at` patches; None where neither steps nor
    rows are known.
    """
    if recipe.steps is not None:
        samples = float(recipe.steps * recipe.global_batch)
    elif rows is not None:
        samples = rows * (recipe.epochs or 1)
    else:
        return None
    passes = 2 + 2 + (2 if recipe.gradient_checkpointing else 0)  # forward, gradients of states, recomputed
    per_position = passes * found.language + 2 * (found.trained - found.tower_trained)
    positions = samples * recipe.max_length / 2  # rows are about half as long as they may be
    per_patch = 2 * found.tower + 4 * found.tower_trained
    return (positions * per_position + samples * looked_at * per_patch) / (OPERATIONS_PER_SECOND * processes)


def told(model: Any, recipe: Recipe, rows: int | None, processes: int) -> str:
    """The estimates in words."""
    found = count(model, recipe)
    held = memory(model, recipe, found, processes)
    passes = recipe.accumulation(processes)
    parts = ", ".join(f"{name} {value / GIGA:.1f}" for name, value in held.items())
    trained = [*recipe.trainable, *(f"adapters on {part}" for part in (recipe.lora or _NoAdapters()).targets)]
    lines = [
        f"trains {found.trained:,} of {found.total:,} parameters ({', '.join(trained)})",
        f"each step: {recipe.rows_at_once(processes)} rows at once x {passes} passes x {processes} processes "
        f"= {recipe.global_batch} rows",
        f"memory of each of {processes} processes about {sum(held.values()) / GIGA:.1f} GiB ({parts})",
        f"and of the machine about {4 * found.total / GIGA:.1f} GiB for each process on it, while the model "
        "is opened",
    ]
    time = seconds(recipe, found, rows, processes, patches(model.config))
    if time is None:
        lines.append("time: unknown, because the rows are not here to be counted")
    else:
        shown = f"{time / 3600:.1f} h" if time > 360 else f"{max(1.0, time):.0f} s"
        lines.append(f"time about {shown} if each process has an {DEVICE} at 40 % of its bf16 peak")
    return "\n".join(lines)


class _NoAdapters:
    targets: dict[str, Any] = {}  # noqa: RUF012
