"""A training stage is a value: a recipe is read from YAML, checked field by field, printed before it runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from beholder.core.errors import ConfigError


class Source(BaseModel):
    """Rows of one data set and the folder their picture paths start from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rows: Path
    pictures: Path
    most_objects: int | None = Field(
        default=None, ge=0, description="leave out pictures with more objects; letters are counted apart"
    )
    most_letters: int | None = Field(default=None, ge=0, description="leave out pictures with more letters")
    longest_answer: int | None = Field(
        default=None, ge=1, description="leave out turns whose answer has more characters"
    )


class Recipe(BaseModel):
    """One stage. Global batch = device batch x accumulation x processes; the first and last are given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    about: str = ""
    model: str = Field(description="hub id or folder to start from")
    output: Path = Field(description="folder for logs, resumable checkpoints and the trained model")
    data: tuple[Source, ...] = Field(min_length=1)
    objective: Literal["answers", "patches"] = "answers"
    trainable: tuple[str, ...] = Field(min_length=1, description="prefixes of parameter names")
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(gt=0)
    learning_rates: dict[str, float] = Field(
        default_factory=dict, description="prefix -> its own learning rate"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    global_batch: int = Field(ge=1)
    device_batch: int = Field(ge=1)
    max_length: int = Field(ge=1)
    pad_to_multiple: int = Field(default=1, ge=1)
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    workers: int = Field(default=1, ge=0)
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)
    seed: int = 0

    def model_post_init(self, _context: Any) -> None:
        """Checks that need more than one field."""
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"recipe {self.name}: give either epochs or steps (have {self.epochs} and {self.steps})"
            )

    def accumulation(self, processes: int) -> int:
        """Steps to accumulate so that the global batch holds on this many processes."""
        per_pass = self.device_batch * processes
        if self.global_batch % per_pass:
            raise ConfigError(
                f"recipe {self.name}: global_batch {self.global_batch} is not a multiple of "
                f"device_batch {self.device_batch} x {processes} processes"
            )
        return self.global_batch // per_pass


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, as `family/stage`."""
    root = resources.files("beholder.training").joinpath("recipes")
    found = []
    for family in root.iterdir():
        if family.is_dir():
            found += [f"{family.name}/{f.name[:-5]}" for f in family.iterdir() if f.name.endswith(".yaml")]
    return sorted(found)


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A packaged recipe by name or a YAML file by path, with `key=value` overrides (dots reach inside)."""
    if name_or_path in (known := recipe_names()):
        text = (
            resources.files("beholder.training")
            .joinpath("recipes", f"{name_or_path}.yaml")
            .read_text("utf-8")
        )
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text("utf-8")
    else:
        raise ConfigError(f"no recipe {name_or_path!r}; known: {', '.join(known)}; or give a YAML file")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name_or_path} is not valid YAML: {error}") from error
    for override in overrides:
        apply_override(values, override)
    return check_recipe(values, name_or_path)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `a.b=value` inside the recipe; the value is read as YAML, list positions are numbers."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not key=value")
    place: Any = values
    *path, last = key.split(".")
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[int(last) if isinstance(place, list) else last] = yaml.safe_load(text)


def check_recipe(values: dict[str, Any], origin: str) -> Recipe:
    """Validate; an unknown key is answered with the nearest known one."""
    try:
        return Recipe(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            line = f"{where}: {problem['msg']}"
            if problem["type"] == "extra_forbidden":
                near = difflib.get_close_matches(
                    str(problem["loc"][-1]), [*Recipe.model_fields, *Source.model_fields], n=1
                )
                line = f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            lines.append(line)
        raise ConfigError(f"recipe {origin}: " + "; ".join(lines)) from error


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Train exactly the parameters under the recipe's prefixes; a prefix that matches nothing is an error."""
    names = [name for name, _ in model.named_parameters()]
    wanted = (*recipe.trainable, *recipe.learning_rates)
    if idle := [prefix for prefix in wanted if not any(name.startswith(prefix) for name in names)]:
        raise ConfigError(
            f"recipe {recipe.name}: no parameter starts with {idle}; parts are {parts_of(names)}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(recipe.trainable))


def parts_of(names: Sequence[str]) -> list[str]:
    """The distinct first two levels of parameter names, for messages."""
    return sorted({".".join(name.split(".")[:2]) for name in names})
