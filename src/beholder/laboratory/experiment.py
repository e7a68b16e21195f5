"""Trains and scores every subject under every seed; what is done already is left as it is.

OUT/train, OUT/test, OUT/sheets     the pictures
OUT/language                        the language model that all subjects of all seeds start from
OUT/towers/KIND                     the tower that all subjects with that kind start from, under all seeds
OUT/SUBJECT-SEED/start              the subject with both; what lies between them is as the seed says
OUT/SUBJECT-SEED/{align,tune}       the stages, as `beholder train` leaves them
OUT/SUBJECT-SEED/marks/STEP         the model at a point of the last stage, and its score card
OUT/records                         one record for each point, one of each seed's speeds
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from beholder.api import load
from beholder.core.records import RunRecord, capture, hash_weights
from beholder.evaluation.run import run_task
from beholder.evaluation.tasks import find_task
from beholder.families import identify_folder
from beholder.laboratory.budget import Budget, align_recipe, language_recipe, tower_recipe, tune_recipe
from beholder.laboratory.materials import ROWS, prepare
from beholder.laboratory.measuring import TIMED, Cost, cost_of, slots_of, speeds_of
from beholder.laboratory.subjects import SUBJECTS, Subject, read_language, write_subject
from beholder.laboratory.summary import SPEED
from beholder.mini.dataset import Plan
from beholder.training.run import run
from beholder.training.stages import Recipe

log = logging.getLogger("beholder")
SEED_OF_SCENES = 7
SEED_OF_PARTS = 0  # that all seeds share
WEIGHTS = "model.safetensors"
MEASURE = "laboratory v4"


class Materials(NamedTuple):
    """Folders of pictures: to learn from, to be asked about, and crowded sheets for the towers' warm-up."""

    train: Path
    test: Path
    sheets: Path


def run_laboratory(
    out: Path, budget: Budget, seeds: Sequence[int], subjects: Sequence[str], fonts: Path | None = None
) -> list[RunRecord]:
    """Everything, in an order that has all subjects of one seed before the next seed begins."""
    drawn = materials(out, budget, fonts)
    records: list[RunRecord] = []
    for seed in seeds:
        for name in subjects:
            records += run_subject(SUBJECTS[name], out, budget, seed, drawn)
        records.append(measure_speeds(subjects, out, budget, seed, drawn))
    return records


def materials(out: Path, budget: Budget, fonts: Path | None) -> Materials:
    """The pictures, drawn now if they are not there."""
    train = Plan(
        scenes=budget.scenes, seed=SEED_OF_SCENES, split="train", rounds=budget.rounds, language="en"
    )
    test = Plan(scenes=budget.tests, seed=SEED_OF_SCENES, split="test", language="en")
    sheets = Plan(scenes=budget.sheets, seed=SEED_OF_SCENES, split="train", crowded=True)
    plans = {"train": train, "test": test, "sheets": sheets}
    return Materials(*(prepare(out / name, plan, fonts) for name, plan in plans.items()))


def run_subject(subject: Subject, out: Path, budget: Budget, seed: int, drawn: Materials) -> list[RunRecord]:
    """The stages of one subject under one seed, and a record for each point."""
    home = out / f"{subject.name}-{seed}"
    records = [out / "records" / f"{subject.name}-{seed}-{step}.json" for step in budget.points]
    if all(path.is_file() for path in records):
        return [RunRecord.read(path) for path in records]
    start, train = write_start(subject, out, budget, seed, drawn), drawn.train
    align = align_recipe(subject, start, home / "align", train, budget, seed)
    finished(align)
    tune = tune_recipe(align.output / "model", home / "tune", train, budget, seed)
    finished(tune)
    costs = (cost_of(align), cost_of(tune))
    found: list[RunRecord] = []
    for step, path in zip(budget.points, records, strict=True):
        if not path.is_file():
            score_point(subject, align, tune, step, home, drawn.test, budget, costs).write(path)
        found.append(RunRecord.read(path))
    return found


def write_start(subject: Subject, out: Path, budget: Budget, seed: int, drawn: Materials) -> Path:
    """A subject with its language model and its tower, and nothing else trained, written now if not there."""
    start = out / f"{subject.name}-{seed}" / "start"
    if not start.is_dir():
        language = read_language(learned_language(out, budget, drawn))
        tower = load_file(learned_tower(subject, out, budget, drawn) / WEIGHTS)
        write_subject(subject, start, drawn.train / ROWS, seed, budget.sizes, language, tower)
    return start


def learned_language(out: Path, budget: Budget, drawn: Materials) -> Path:
    """The model whose language part all subjects take, trained on texts now if it is not there."""
    home = out / "language"
    if not (home / "blank").is_dir():
        write_subject(SUBJECTS["experts"], home / "blank", drawn.train / ROWS, SEED_OF_PARTS, budget.sizes)
    return finished(language_recipe(home / "blank", home / "texts", drawn.train, budget, SEED_OF_PARTS))


def learned_tower(subject: Subject, out: Path, budget: Budget, drawn: Materials) -> Path:
    """A model whose tower knows what its patches lie on, trained now if it is not there.

    One for all subjects with a tower of that kind and for all seeds, as published towers are.
    """
    home = out / "towers" / subject.tower
    first = next(one for one in SUBJECTS.values() if one.tower == subject.tower)
    if not (home / "blank").is_dir():
        write_subject(first, home / "blank", drawn.train / ROWS, SEED_OF_PARTS, budget.sizes)
    return finished(
        tower_recipe(home / "blank", home / "warm", drawn.train, drawn.sheets, budget, SEED_OF_PARTS)
    )


def finished(recipe: Recipe) -> Path:
    """The model that a stage leaves, trained now if it is not there."""
    model = recipe.output / "model"
    if not (model / "config.json").is_file():
        log.info("laboratory: %s", recipe.output)
        run(recipe)
    return model


def point_folder(tune: Recipe, step: int, home: Path) -> Path:
    """A folder that opens as a model: the weights after that step of the last stage."""
    folder = home / "marks" / str(step)
    if (folder / WEIGHTS).is_file():
        return folder
    last = tune.output / "model"
    source = last if step == tune.steps else tune.output / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    identify_folder(last).processor_class().from_pretrained(last).save_pretrained(folder)
    shutil.copy(source / "config.json", folder)
    shutil.copy(source / WEIGHTS, folder)
    return folder


def score_point(
    subject: Subject, align: Recipe, tune: Recipe, step: int, home: Path, test: Path, budget: Budget,
    costs: tuple[Cost, Cost],
) -> RunRecord:  # fmt: skip
    """The record of one point: the score on the unseen scenes beside what it took."""
    folder = point_folder(tune, step, home)
    weights, task = hash_weights(folder), find_task("worlds")
    vlm = load(str(folder), device="cpu", dtype="float32")
    card = run_task(vlm, weights, task, test, folder / "worlds", asked_as="plain")
    vlm.close()
    assert card is not None
    samples = (align.global_batch * budget.align_steps, tune.global_batch * step)
    spent = sum(cost.flops * count for cost, count in zip(costs, samples, strict=True))
    return capture(
        subject=subject.name,
        weights=weights,
        measure=MEASURE,
        values={
            **{name: card.values[name] for name in ("overall", *kinds(card))},
            "training_petaflops": spent / 1e15,
            "parameters": float(costs[1].parameters),
            "tokens_per_picture": float(slots_of(folder)),
            "samples_seen": float(sum(samples)),
        },
        samples=card.samples,
        settings={
            "budget": budget.name, "seed": tune.seed, "step": step, "title": subject.title,
            "idea": subject.idea, "language_steps": budget.language_steps, "tower_steps": budget.tower_steps,
            "align_steps": budget.align_steps, "tune_steps": budget.tune_steps, "batch": budget.batch,
            "scenes": budget.scenes, "sheets": budget.sheets, "test_scenes": budget.tests,
        },
        seconds=card.seconds,
    )  # fmt: skip


def measure_speeds(
    subjects: Sequence[str], out: Path, budget: Budget, seed: int, drawn: Materials
) -> RunRecord:
    """The record of how long the finished subjects of a seed take; measured again if one is not in it."""
    path = out / "records" / f"speed-{seed}.json"
    if path.is_file() and not set(subjects) - (found := RunRecord.read(path)).values.keys():
        return found
    last = budget.points[-1]
    folders = {name: out / f"{name}-{seed}" / "marks" / str(last) for name in subjects}
    start = time.monotonic()
    record = capture(
        subject=SPEED,
        weights="",
        measure=MEASURE,
        values=speeds_of(folders, drawn.test),
        settings={"budget": budget.name, "seed": seed, "threads": torch.get_num_threads()},
        samples=min(TIMED, budget.tests),
        seconds=time.monotonic() - start,
    )
    record.write(path)
    return record


def kinds(card: RunRecord) -> list[str]:
    """The figures of a score card that are kinds of questions, in both languages."""
    return [name for name in card.values if "." not in name and name != "overall"]


def read_records(folder: Path) -> list[RunRecord]:
    """The laboratory's records in a folder, in the order of their names."""
    found: list[RunRecord] = []
    for path in sorted(folder.glob("*.json")):
        if json.loads(path.read_text("utf-8")).get("measure") == MEASURE:
            found.append(RunRecord.read(path))
    return found


def score_run(model: Path, test: Path, out: Path, budget: Budget, told: dict[str, object]) -> RunRecord:
    """The record of a trained model beside the four: its score, and what `told` says of the run."""
    weights = hash_weights(model)
    vlm = load(str(model), device="cpu", dtype="float32")
    card = run_task(vlm, weights, find_task("worlds"), test, out, asked_as="plain")
    vlm.close()
    assert card is not None
    return capture(
        subject="laboratory",
        weights=weights,
        measure="stages v2",
        values={name: card.values[name] for name in ("overall", *kinds(card))},
        samples=card.samples,
        settings={
            "budget": budget.name, "test_scenes": budget.tests, "align_steps": budget.align_steps,
            "tune_steps": budget.tune_steps, **told,
        },
        seconds=card.seconds,
    )  # fmt: skip
