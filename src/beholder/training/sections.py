"""Parts of a recipe that most stages leave out: adapters, and what a first stage is put together from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Start(BaseModel):
    """A model that nobody trained yet: a language model, a tower, and projectors of seeded random numbers.

    `geometry` names the sizes (see `geometries.yaml`); the other two are folders or hub ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    geometry: str = Field(description="a name in geometries.yaml: how large each part is")
    language_model: str = Field(description="folder or hub id")
    vision_tower: str = Field(description="folder or hub id")


class Adapters(BaseModel):
    """Low-rank adapters (LoRA, or DoRA) beside linear layers, through PEFT."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: int = Field(ge=1, description="width of the two halves; more can learn more, and takes more")
    alpha: float = Field(gt=0, description="the product of the two halves counts alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of an adapter's input left out")
    targets: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="part of the model -> ends of its linear layers' names, or all"
    )
    dora: bool = Field(default=False, description="DoRA: lengths and directions of the weights apart")
    quantize: Literal["none", "4bit"] = Field(
        default="none", description="4bit keeps the adapted part in nf4 (QLoRA), which needs bitsandbytes"
    )
    quantize_twice: bool = Field(default=True, description="nf4's constants are quantized as well")


@lru_cache(maxsize=512)
def _pattern(prefix: str) -> re.Pattern[str]:
    return re.compile(re.escape(prefix).replace(r"\*", "[^.]*"))


def begins(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a parameter's name starts with one of the prefixes; `*` stands for one step between dots."""
    return any(_pattern(prefix).match(name) is not None for prefix in prefixes)
