"""A run that is cut off and started again ends with the same weights as one that was left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.core.errors import ConfigError
from beholder.training.resuming import newest_checkpoint
from beholder.training.run import run
from beholder.training.stages import Recipe

STEPS = 6


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("start")
    make_tiny_checkpoint(folder / "model", llama3_tokenizer, max_position_embeddings=1024)
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "white", "black", "pink", "grey", "cyan")):
        Image.new("RGB", (20 + number, 24), colour).save(folder / f"{number}.png")
        talk = [
            {"from": "human", "value": "<image>\nWhat colour?" + "?" * number},
            {"from": "gpt", "value": colour},
        ]
        objects = [{"what": "sheet", "colour": colour, "box": [0.1, 0.1, 0.9, 0.9]}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": talk, "objects": objects})
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def recipe(start: Path, output: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "test/resume",
        "model": str(start / "model"),
        "output": output,
        "data": [{"rows": start / "rows.json", "pictures": start}],
        "trainable": ["model", "lm_head"],
        "optimizer": "muon",
        "learning_rate": 1e-2,
        "steps": STEPS,
        "global_batch": 2,
        "device_batch": 1,
        "max_length": 1024,
        "precision": "fp32",
        "workers": 0,
        "save_every": 2,
        "keep": 9,
        "log_every": 1,
    }
    return Recipe(**(values | changes))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


def losses(output: Path) -> list[float]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records]


@pytest.mark.parametrize("objective", ["answers", "patches"])
def test_resumed_equals_straight(start: Path, tmp_path: Path, objective: str) -> None:
    looking = ["model.vision_tower", "model.corner_abstractor", "model.whole_abstractor"]
    trainable = ["model", "lm_head"] if objective == "answers" else looking
    whole = recipe(start, tmp_path / "whole", objective=objective, trainable=trainable)
    run(whole)
    assert losses(whole.output)[-1] < losses(whole.output)[0]

    cut = recipe(start, tmp_path / "cut", objective=objective, trainable=trainable)
    run(cut)
    # As if the process had died while writing the checkpoint of step 6 and before that of the final model.
    (cut.output / "checkpoint-6" / "complete").unlink()
    (cut.output / "model" / "model.safetensors").unlink()
    assert newest_checkpoint(cut.output) == cut.output / "checkpoint-4"
    run(cut)
    assert losses(cut.output)[STEPS:] == losses(whole.output)[4:]
    straight, resumed = weights(whole.output), weights(cut.output)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_finished_run_is_not_trained_further(start: Path, tmp_path: Path) -> None:
    stage = recipe(start, tmp_path / "run")
    run(stage)
    trained = weights(stage.output)
    (stage.output / "model" / "model.safetensors").unlink()
    run(stage)
    written = weights(stage.output)
    assert len(losses(stage.output)) == STEPS
    assert all(torch.equal(trained[name], written[name]) for name in trained)


def test_a_run_goes_on_with_another_recipe_only_when_told(start: Path, tmp_path: Path) -> None:
    run(recipe(start, tmp_path / "run"))
    longer = recipe(start, tmp_path / "run", steps=STEPS + 2, learning_rate=2e-2, save_every=1)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01 and is 0\.02; steps was 6 and is 8"):
        run(longer)
    run(longer, accept_changes=True)
    assert len(losses(longer.output)) == STEPS + 2
    assert (longer.output / "checkpoint-7").is_dir()  # the new interval holds too
