"""What a subject costs: arithmetic of a training row, counted; time to an answer's first token, measured."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from beholder.api import load
from beholder.training.data import Conversations
from beholder.training.feeding import collator_for, prepared
from beholder.training.losses import answer_loss
from beholder.training.run import open_start
from beholder.training.sources import sources_of
from beholder.training.stages import Recipe, freeze

ROWS = 64  # whose mean stands for all
PICTURES = 8


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a row, forward and backward, and the parameters of the model."""

    flops: float
    parameters: int


@dataclass(frozen=True)
class Speed:
    """Slots that a picture takes, and the median time to an answer's first token."""

    slots: int
    first_token_ms: float


def cost_of(recipe: Recipe) -> Cost:
    """Counted over the first rows of the recipe's data in one batch, with what the recipe trains."""
    model, processor = open_start(recipe)
    model.set_attn_implementation("eager")
    freeze(model, recipe)
    processor = prepared(processor, recipe)
    rows, collate = Conversations(sources_of(recipe), processor), collator_for(recipe, processor, model)
    counted = min(ROWS, len(rows))
    batch: dict[str, Any] = collate([rows[number] for number in range(counted)])
    batch.pop("rows", None)
    with FlopCounterMode(display=False) as counter:
        answer_loss(model, model.get_output_embeddings(), batch)[0].backward()
    total = counter.get_total_flops()
    return Cost(total / counted, sum(parameter.numel() for parameter in model.parameters()))


def speed_of(folder: Path, test: Path, pictures: int = PICTURES) -> Speed:
    """Each picture once, nothing kept between them; the first is asked twice and counts the second time."""
    vlm = load(str(folder), device="cpu", dtype="float32", prefix_cache=False, picture_memory=0)
    asked = json.loads((test / "questions.json").read_text("utf-8"))
    by_picture = {row["image"]: row for row in asked}
    rows = list(by_picture.values())[:pictures]
    times: list[float] = []
    for row in (rows[0], *rows):
        answer = vlm.ask(test / row["image"], row["question"], max_tokens=1)
        times.append(1000 * answer.timings.first_token)
    vlm.close()
    return Speed(vlm.processor.slots_per_picture, statistics.median(times[1:]))
