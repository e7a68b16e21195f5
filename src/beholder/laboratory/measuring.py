"""What a subject costs: arithmetic of a training row, counted; time to an answer's first token, measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from beholder.api import VLM, load
from beholder.families import identify_folder
from beholder.laboratory.materials import QUESTIONS
from beholder.training.data import Conversations
from beholder.training.feeding import collator_for, prepared, sampler_for
from beholder.training.losses import answer_loss
from beholder.training.run import open_start
from beholder.training.sources import sources_of
from beholder.training.stages import Recipe, freeze

PASSES = 4  # whose mean stands for all
TIMED = 16  # pictures, or all where there are fewer


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a row, forward and backward, and the parameters of the model."""

    flops: float
    parameters: int


def cost_of(recipe: Recipe) -> Cost:
    """Counted over the first batches that the recipe's training sees, with what the recipe trains."""
    model, processor = open_start(recipe)
    model.set_attn_implementation("eager")
    freeze(model, recipe)
    processor = prepared(processor, recipe)
    rows, collate = Conversations(sources_of(recipe), processor), collator_for(recipe, processor, model)
    order = list(sampler_for(recipe, rows) or range(len(rows)))[: PASSES * recipe.device_batch]
    with FlopCounterMode(display=False) as counter:
        for first in range(0, len(order), recipe.device_batch):
            numbers = order[first : first + recipe.device_batch]
            batch: dict[str, Any] = collate([rows[number] for number in numbers])
            batch.pop("rows", None)
            answer_loss(model, model.get_output_embeddings(), batch)[0].backward()
    total = counter.get_total_flops()
    return Cost(total / len(order), sum(parameter.numel() for parameter in model.parameters()))


def slots_of(folder: Path) -> int:
    """How many positions of the language model a picture takes."""
    processor: Any = identify_folder(folder).processor_class().from_pretrained(folder)
    return processor.slots_per_picture


def speeds_of(folders: Mapping[str, Path], test: Path, pictures: int = TIMED) -> dict[str, float]:
    """Median milliseconds to an answer's first token, by the names of `folders`.

    All models take turns at each picture, so what else the machine does strikes all alike. Nothing is kept
    between pictures; the first is asked twice and counts the second time.
    """
    rows = json.loads((test / QUESTIONS).read_text("utf-8"))
    asked = list({row["image"]: row for row in rows}.values())[:pictures]
    with ExitStack() as opened:
        models = {name: opened.enter_context(closing(_forgetful(folder))) for name, folder in folders.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        for row in (asked[0], *asked):
            for name, model in models.items():
                answer = model.ask(test / row["image"], row["question"], max_tokens=1)
                times[name].append(1000 * answer.timings.first_token)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def _forgetful(folder: Path) -> VLM:
    """The model, keeping nothing of a question for the next."""
    return load(str(folder), device="cpu", dtype="float32", prefix_cache=False, picture_memory=0)
