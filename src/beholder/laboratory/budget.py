"""How much each subject gets: the same pictures, rows and steps for all, and at which points it is scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError
from beholder.laboratory.materials import CAPTIONS, PICTURES, ROWS, TEXTS
from beholder.laboratory.subjects import Sizes, Subject
from beholder.training.stages import Recipe

TRUNK = ("model", "lm_head")
LABORATORY_RATE = 1.2e-3  # of both stages
LANGUAGE = ("model.language_model", "lm_head")
# What is asked about a picture in one batch, behind its slots: it is looked at once for all of it.
TOGETHER = {"grouping": "picture", "packing": True, "share_pictures": True}
PARTS = 12  # of each sheet
MINI = Sizes()


@dataclass(frozen=True)
class Budget:
    """Scenes and sheets drawn, steps of each stage, the batch, how often the last stage is scored on its way.

    A batch of the last stage is of questions and descriptions; before it of a quarter as many pictures,
    descriptions or texts.
    """

    name: str
    scenes: int
    sheets: int
    rounds: int
    tests: int
    language_steps: int
    tower_steps: int
    align_steps: int
    tune_steps: int
    batch: int
    marks: int = 4
    sizes: Sizes = MINI
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.tune_steps % self.marks:
            raise ConfigError(f"{self.tune_steps} steps cannot be scored at {self.marks} even points")

    @property
    def points(self) -> list[int]:
        """The steps of the last stage after which a subject is scored."""
        part = self.tune_steps // self.marks
        return [part * number for number in range(1, self.marks + 1)]

    @property
    def early_batch(self) -> int:
        """Rows of a batch before the last stage."""
        return self.batch // 4

    @property
    def align_rows(self) -> int:
        """Rows that the first stage sees."""
        return self.align_steps * self.early_batch


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("full", scenes=16000, sheets=4000, rounds=6, tests=250, language_steps=750, tower_steps=2400,
               align_steps=100, tune_steps=800, batch=128),
        Budget("small", scenes=2000, sheets=400, rounds=6, tests=100, language_steps=200, tower_steps=400,
               align_steps=20, tune_steps=200, batch=128),
        Budget("tiny", scenes=6, sheets=1, rounds=2, tests=2, language_steps=2, tower_steps=2, align_steps=1,
               tune_steps=2, batch=4, marks=2, precision="fp32",
               sizes=Sizes(tower=48, tower_layers=1, large_tower=96, large_layers=2, width=32, inner=48,
                           layers=1, heads=2, queries=16)),
    )
}  # fmt: skip


def language_recipe(start: Path, out: Path, data: Path, budget: Budget, seed: int) -> Recipe:
    """What published language models bring along: words, and answers that follow from what was said before.

    Trained in CogVLM's classes, whose template `base` writes no words of its own around a text.
    """
    rows = [{"rows": data / TEXTS, "pictures": data}]
    return _recipe(
        start, out, budget, seed, "language", rows, LANGUAGE, steps=budget.language_steps,
        learning_rate=2e-3, template="base", grouping="length", too_long="cut",
        **_batch(budget.early_batch),
    )  # fmt: skip


def tower_recipe(start: Path, out: Path, data: Path, sheets: Path, budget: Budget, seed: int) -> Recipe:
    """The tower's warm-up: crowded sheets in parts, scenes whole and in parts as the five views show them.

    Most of a scene is empty, so most of its patches teach nothing; a sheet is full.
    """
    rows = {"rows": data / PICTURES, "pictures": data}
    crowded = {"rows": sheets / PICTURES, "pictures": sheets, "parts": PARTS}
    return _recipe(
        start, out, budget, seed, "tower", [crowded, rows, rows | {"parts": 1}], ("model.vision_tower",),
        steps=budget.tower_steps, objective="patches", learning_rate=2e-3, **_batch(budget.early_batch),
    )  # fmt: skip


def align_recipe(
    subject: Subject,
    start: Path,
    out: Path,
    data: Path,
    budget: Budget,
    seed: int,
    rate: float = LABORATORY_RATE,
) -> Recipe:
    """The first published stage, on captions: what is between tower and language model learns alone."""
    rows = [{"rows": data / CAPTIONS, "pictures": data}]
    return _recipe(
        start, out, budget, seed, "align", rows, subject.projector, steps=budget.align_steps,
        learning_rate=rate, grouping="length", packing=True, **_batch(budget.early_batch),
    )  # fmt: skip


def tune_recipe(start: Path, out: Path, data: Path, budget: Budget, seed: int, **changes: Any) -> Recipe:
    """The second: everything learns, from the questions and the description of each picture."""
    rows = [{"rows": data / name, "pictures": data} for name in (ROWS, CAPTIONS)]
    values = {"steps": budget.tune_steps, "learning_rate": LABORATORY_RATE, **TOGETHER, **changes}
    return _recipe(start, out, budget, seed, "tune", rows, TRUNK, **values)


def _batch(rows: int) -> dict[str, int]:
    """A batch other than the budget's, in one pass."""
    return {"global_batch": rows, "device_batch": rows}


def _recipe(
    start: Path, out: Path, budget: Budget, seed: int, stage: str, data: list[dict[str, Any]],
    trainable: tuple[str, ...], **values: Any,
) -> Recipe:  # fmt: skip
    every = budget.points[0] if stage == "tune" else max(1, values["steps"] // 4)
    return Recipe(
        name=f"lab/{stage}",
        model=str(start),
        output=out,
        data=data,  # type: ignore[arg-type]  # pydantic reads the dictionaries
        trainable=trainable,
        **{
            "optimizer": "muon", "weight_decay": 0.05, "beta2": 0.98, "warmup_ratio": 0.03,
            "global_batch": budget.batch, "device_batch": budget.batch, "max_length": 512,
            "pad_to_multiple": 16, "precision": budget.precision, "attention": "eager",
            "workers": 0, "save_every": every, "keep": budget.marks + 1, "seed": seed,
            "log_every": min(20, values["steps"]), "report_to": (),
        } | values,
    )  # fmt: skip
