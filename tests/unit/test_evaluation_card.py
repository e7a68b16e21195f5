"""The model card holds figures of the weights at hand and of no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docs import model_card, training_record
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.core.records import RunRecord, capture, hash_weights
from beholder.evaluation.cards import flatten
from beholder.evaluation.intervals import Interval
from beholder.mini import FOLDER


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), llama3_tokenizer)


def figure(name: str, both: float, english: float, chinese: float) -> dict[str, Interval]:
    values = {name: both, f"{name}.en": english, f"{name}.zh": chinese, f"{name}.en-zh": english - chinese}
    return {key: Interval(value, value - 0.01, value + 0.01, 100) for key, value in values.items()}


@pytest.fixture
def worlds(checkpoint: Path) -> RunRecord:
    figures = (
        figure("yes_no", 0.98, 0.985, 0.975)
        | figure("count", 0.90, 0.91, 0.89)
        | figure("where", 0.9, 0.95, 0.85)
    )
    settings = {"pictures": 2000, "dtype": "torch.float32", "batch": 16, "threads": 2, "data": "0123"}
    return capture(
        subject="beholder-mini",
        weights=hash_weights(checkpoint),
        measure="worlds v1",
        values=flatten(figures),
        samples=31000,
        settings=settings,
        seconds=60,
    )


def rows_of(card: str) -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {line[0]: line for line in cells}


def test_figures_stand_beside_their_targets(checkpoint, worlds, tmp_path):
    worlds.write(tmp_path / "worlds.json")
    card = model_card.make_card(tmp_path, checkpoint)
    rows = rows_of(card)
    assert rows["yes or no"][1:3] == ["97", "98.0 [97.0, 99.0]"]
    assert rows["yes or no"][-1].strip(" |") == "yes"
    assert rows["how many"][-1].strip(" |") == "no: figure"
    assert rows["where is ..., box with IoU of 0.5 or more"][-1].strip(" |") == "no: Chinese"
    assert "2,000 unseen scenes" in card
    assert "Do not edit" in card.splitlines()[0]
    assert "other software" not in card.split("## What it can")[0]


def test_other_weights_have_no_say(checkpoint, worlds, tmp_path):
    replace(worlds, weights="of others").write(tmp_path / "worlds.json")
    with pytest.raises(SystemExit, match="no record of 'worlds v1' for the weights"):
        model_card.make_card(tmp_path, checkpoint)


def test_two_records_of_one_measure_are_one_too_many(checkpoint, worlds, tmp_path):
    worlds.write(tmp_path / "a.json")
    worlds.write(tmp_path / "b.json")
    with pytest.raises(SystemExit, match="2 records of 'worlds v1'"):
        model_card.make_card(tmp_path, checkpoint)


def stage(folder: Path, name: str, points: list[dict[str, Any]]) -> Path:
    """A finished stage as `beholder train` leaves it."""
    data = folder / "data" / "train-0"
    data.mkdir(parents=True, exist_ok=True)
    manifest = {"scenes": 500, "seed": 1, "split": "train", "start": 1000, "rounds": 8, "fonts": [{}, {}]}
    (data / "manifest.json").write_text(json.dumps(manifest | {"counts": {"questions": 4000}}))
    run = folder / "runs" / name
    (run / "model").mkdir(parents=True)
    recipe = {
        "name": f"mini/{name}", "model": str(folder / "runs" / "before" / "model"), "output": str(run),
        "data": [{"rows": str(data / "conversations.json"), "pictures": str(data)}], "trainable": ["model"],
        "optimizer": "muon", "precision": "bf16", "seed": 0, "global_batch": 10, "learning_rate": 0.003,
        "schedule": "cosine", "workers": 1, "keep": 2, "save_every": 5, "log_every": 1,
    }  # fmt: skip
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "log.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return run


def test_training_is_recorded_without_traces_of_the_machine(tmp_path, checkpoint, worlds):
    points = [
        {"step": step, "loss": 5.0 - step / 100, "samples_per_second": 20.0} for step in range(20, 401, 20)
    ]
    out = tmp_path / "records"
    record = training_record.record_stage(stage(tmp_path, "tower", points), out, 1)
    assert record.seconds == 400 * 10 / 20
    assert record.values["samples_seen"] == 4000
    assert record.values["last_loss"] == 1.0
    assert record.samples == 500
    assert str(tmp_path) not in (out / "mini-train-1-tower.json").read_text()
    worlds.write(out / "worlds.json")
    card = model_card.make_card(out, checkpoint)
    rows = rows_of(card)
    assert rows["`mini/tower`"][2:6] == ["1,000 to 1,499", "400", "10", "4,000"]
    curve = [line for line in card.splitlines() if line.startswith("| tower |")]
    assert len(curve) == model_card.CURVE_POINTS
    assert curve[0].startswith("| tower | 20 | 200 | 4.800 |")
    assert curve[-1].startswith("| tower | 400 | 4,000 | 1.000 |")


def test_a_resumed_stage_counts_each_step_once(tmp_path):
    points = [
        {"step": 20, "loss": 3.0, "samples_per_second": 10.0},
        {"step": 40, "loss": 2.0, "samples_per_second": 10.0},
        {"step": 40, "loss": 2.5, "samples_per_second": 20.0},
    ]
    record = training_record.record_stage(stage(tmp_path, "words", points), tmp_path / "records", 2)
    assert record.seconds == 20 * 10 / 10 + 20 * 10 / 20
    assert record.values["last_loss"] == 2.5


@pytest.mark.skipif(not model_card.CARD.exists(), reason="there is no card yet")
def test_the_card_is_current():
    assert model_card.CARD.read_text(encoding="utf-8") == model_card.make_card(model_card.RECORDS, FOLDER)
