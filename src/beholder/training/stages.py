"""A training stage is a value: a recipe read from YAML, checked field by field, kept with what it trains."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from beholder.checkpoints.adapter_folder import is_adapter_parameter
from beholder.core.errors import ConfigError
from beholder.training.sections import Adapters, Start, begins


class Source(BaseModel):
    """Rows of one data set and the folder their picture paths start from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rows: Path = Field(description=".json or .jsonl file; with form folder the folder of pictures")
    pictures: Path = Field(description="folder that the picture paths of the rows start from")
    form: Literal["rows", "folder"] = Field(
        default="rows", description="folder: each picture's answer is in its name or in a .txt beside it"
    )
    prompt: str | None = Field(default=None, description="what is asked about each picture of a folder")
    weight: float = Field(default=1.0, gt=0, description="2 shows each row twice an epoch, 0.5 half of them")
    expected: int | None = Field(default=None, ge=1, description="rows of the published set, for estimates")
    most_objects: int | None = Field(
        default=None, ge=0, description="leave out pictures with more objects; letters are counted apart"
    )
    most_letters: int | None = Field(default=None, ge=0, description="leave out pictures with more letters")
    longest_answer: int | None = Field(
        default=None, ge=1, description="leave out turns whose answer has more characters"
    )
    parts: int | None = Field(
        default=None,
        ge=1,
        description="objective patches: show this many random parts of each picture instead",
    )


class Recipe(BaseModel):
    """One stage. Global batch = rows at once x passes x processes; the first and last are given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="what the run is called in messages")
    about: str = Field(default="", description="a sentence for whoever reads the recipe")
    model: str = Field(description="hub id or folder to start from, or beholder-mini, the built-in one")
    output: Path = Field(description="folder for logs, resumable checkpoints and the trained model")
    data: tuple[Source, ...] = Field(min_length=1, description="where rows and pictures are; see below")
    objective: Literal["answers", "patches"] = Field(
        default="answers", description="patches: a tower alone learns what its patches lie on"
    )
    start: Start | None = Field(default=None, description="what `model` is made of if it is not there yet")
    geometry: str | None = Field(default=None, description="sizes for a dry run while `model` is not here")
    template: str | None = Field(default=None, description="conversation template, if not the checkpoint's")
    image_aspect: Literal["square", "pad", "anyres"] | None = Field(
        default=None, description="how pictures become square, if not as the checkpoint says"
    )
    trainable: tuple[str, ...] = Field(
        default=(), description="prefixes of parameter names trained in full; * stands for one step of a name"
    )
    lora: Adapters | None = Field(default=None, description="adapters that are trained; see below")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: matrices by Muon, the rest by AdamW"
    )
    learning_rate: float = Field(gt=0, description="its peak; LLaVA: 2e-4 for adapters, 2e-5 for all")
    learning_rates: dict[str, float] = Field(
        default_factory=dict, description="prefix -> its own learning rate"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="of matrices; vectors are never decayed")
    beta1: float = Field(default=0.9, gt=0, lt=1, description="AdamW's memory of the gradient")
    beta2: float = Field(default=0.999, gt=0, lt=1, description="AdamW's memory of its square")
    epsilon: float = Field(default=1e-8, gt=0, description="AdamW's guard against a division by zero")
    schedule: Literal["cosine", "linear", "constant_with_warmup", "plateau_cosine"] = Field(
        default="cosine", description="how the learning rate goes down after the warm-up"
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps until the peak")
    max_grad_norm: float = Field(default=1.0, ge=0, description="0 clips nothing")
    epochs: float | None = Field(default=None, gt=0, description="how often all rows are seen; or steps")
    steps: int | None = Field(default=None, ge=1, description="how many updates are made; or epochs")
    global_batch: int = Field(ge=1, description="rows of one update, over all processes")
    device_batch: int = Field(ge=1, description="most rows that a process computes at once: memory")
    max_length: int = Field(ge=1, description="most tokens of a row, its pictures included")
    too_long: Literal["stop", "cut", "drop"] = Field(
        default="stop", description="rows over max_length: an error, cut after the last picture, or left out"
    )
    picture_length: Literal["slots", "one"] = Field(
        default="slots", description="what a picture counts for max_length; one is InternVL-Chat's rule"
    )
    pad_to_multiple: int = Field(
        default=1, ge=1, description="lengths of batches are rounded up to it, for compile"
    )
    packing: bool = Field(default=False, description="rows of a batch share sequences and do not see another")
    share_pictures: bool = Field(
        default=False, description="packed rows about the same picture hold it once; see grouping picture"
    )
    grouping: Literal["length", "picture", "llava", "internvl", "none"] = Field(
        default="length", description="order of rows; llava and internvl are the published orders"
    )
    always_picture: bool = Field(
        default=False,
        description="a batch of text gets a blank picture of no weight, as where others have one",
    )
    sharding: Literal["none", "fsdp2", "zero1", "zero2", "zero3"] = Field(
        default="none", description="how several processes share the state of training"
    )
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="number format that is computed in"
    )
    frozen_precision: Literal["bf16", "fp32"] = Field(
        default="fp32", description="number format of the weights that are not trained"
    )
    tf32: bool = Field(default=False, description="on GPUs that have it, for what stays in float32")
    compile: bool = Field(default=False, description="compile the model; worth it for long runs only")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        default="sdpa", description="how attention is computed; the last one needs flash-attn and a GPU"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute layers twice instead of keeping what they gave: less memory"
    )
    workers: int = Field(default=1, ge=0, description="processes that read rows ahead; 0: the run itself")
    save_every: int = Field(default=500, ge=1, description="steps between points that a run resumes from")
    keep: int = Field(default=2, ge=1, description="how many of these points are kept, the newest")
    log_every: int = Field(default=10, ge=1, description="steps between lines of the log")
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=(), description="where the log goes besides log.jsonl and TensorBoard's files"
    )
    sample_every: int | None = Field(default=None, ge=1, description="answer some rows every so many steps")
    samples: int = Field(default=2, ge=1, description="how many rows are answered")
    seed: int = Field(default=0, description="of the adapters' start and the order of rows")

    def model_post_init(self, _context: Any) -> None:
        """Checks that need more than one field."""
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"recipe {self.name}: give either epochs or steps (have {self.epochs} and {self.steps})"
            )
        if not self.trainable and self.lora is None:
            raise ConfigError(f"recipe {self.name}: nothing is trained; give trainable, lora, or both")
        if self.packing and self.attention == "flash_attention_2":
            raise ConfigError(f"recipe {self.name}: packing needs attention sdpa or eager")
        if self.share_pictures and not self.packing:
            raise ConfigError(f"recipe {self.name}: share_pictures is for packed rows; set packing: true")
        for source in self.data:
            if source.form == "folder" and source.prompt is None:
                raise ConfigError(
                    f"recipe {self.name}: {source.rows} is a folder of pictures; give its prompt"
                )

    def limits(self) -> dict[str, Any]:
        """What rows are held to, and how."""
        return self.model_dump(mode="json", include={"max_length", "too_long", "picture_length"})

    def rows_at_once(self, processes: int) -> int:
        """Rows that each of so many processes computes at once: device_batch, or fewer where the global batch
        has no more for each of them.
        """
        return max(1, min(self.device_batch, self.global_batch // processes))

    def accumulation(self, processes: int) -> int:
        """Passes to accumulate so that the global batch holds on this many processes."""
        rows = self.rows_at_once(processes)
        if self.global_batch % (rows * processes):
            raise ConfigError(
                f"recipe {self.name}: global_batch {self.global_batch} is not a multiple of {rows} rows at "
                f"once x {processes} processes; take another number, or set device_batch or global_batch"
            )
        return self.global_batch // (rows * processes)


KEYS = [*Recipe.model_fields, *Source.model_fields, *Adapters.model_fields, *Start.model_fields]


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package: their places below `recipes`."""
    return sorted(_recipes_in(resources.files("beholder.training").joinpath("recipes"), ""))


def _recipes_in(folder: Any, before: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _recipes_in(entry, f"{before}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield before + entry.name.removesuffix(".yaml")


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
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {name_or_path} holds no settings; write them as `key: value`, one a line")
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
    try:
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[int(last) if isinstance(place, list) else last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of override {override!r} is not valid YAML: {error}") from error
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"override {override!r} has no place in the recipe; dots reach inside and positions of lists are "
            "numbers from 0, as in data.0.pictures=FOLDER"
        ) from error


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
                near = difflib.get_close_matches(str(problem["loc"][-1]), KEYS, n=1)
                line = f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            lines.append(line)
        raise ConfigError(f"recipe {origin}: " + "; ".join(lines)) from error


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Train exactly the parameters under the recipe's prefixes; a prefix that matches nothing is an error.

    Adapters that are already there stay trained.
    """
    names = [name for name, _ in model.named_parameters()]
    wanted = (*recipe.trainable, *recipe.learning_rates)
    if idle := [prefix for prefix in wanted if not any(begins(name, (prefix,)) for name in names)]:
        raise ConfigError(
            f"recipe {recipe.name}: no parameter starts with {idle}; parts are {parts_of(names)}"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(is_adapter_parameter(name) or begins(name, recipe.trainable))


def parts_of(names: Sequence[str]) -> list[str]:
    """The distinct first two levels of parameter names, for messages."""
    return sorted({".".join(name.split(".")[:2]) for name in names})
