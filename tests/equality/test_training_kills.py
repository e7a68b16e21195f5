"""A run that `kill -9` ends, with its workers, and that is started again ends with the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.equality.training_cases import checkpoint, recipe, write_rows

pytestmark = pytest.mark.slow
STEPS = 10
PATIENCE = 900.0  # seconds for one start, on a machine that may be busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kills")
    for name, count, texts in (("one", 12, 3), ("two", 6, 2)):
        (place / name).mkdir()
        write_rows(place / name, count, texts_every=texts)
    return checkpoint("llava", place, None)


def written(folder: Path, output: Path) -> Path:
    """The recipe of a run: a mixture with weights, workers, grouping by modality and length."""
    place = folder.parent
    stage = recipe(
        "llava", folder, output, steps=STEPS, workers=2, grouping="length", save_every=2, keep=9,
        data=[
            {"rows": place / "one" / "rows.json", "pictures": place / "one", "weight": 1.5},
            {"rows": place / "two" / "rows.json", "pictures": place / "two", "weight": 0.5},
        ],
    )  # fmt: skip
    path = place / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(json.loads(stage.model_dump_json())))
    return path


def started(path: Path) -> subprocess.Popen[str]:
    """`beholder train`, at the head of a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "beholder", "train", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(path: Path) -> None:
    process = started(path)
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told[-2000:]


def steps_logged(output: Path) -> list[dict[str, Any]]:
    log = output / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.is_file() else []
    return [json.loads(line) for line in lines]


def kill_after(path: Path, output: Path, lines: int) -> None:
    """Start, wait until the log has that many lines, then end the trainer and its workers at once."""
    process = started(path)
    deadline = time.monotonic() + PATIENCE
    while len(steps_logged(output)) < lines:
        assert process.poll() is None, process.communicate()[0][-2000:]
        assert time.monotonic() < deadline, "the run did not come that far"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_killed_twice_equals_left_alone(folder: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(written(folder, whole))
    path = written(folder, cut)
    kill_after(path, cut, 3)
    kill_after(path, cut, len(steps_logged(cut)) + 4)
    assert not (cut / "model").exists()
    finish(path)
    straight, resumed = (load_file(output / "model" / "model.safetensors") for output in (whole, cut))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    last = {record["step"]: record["loss"] for record in steps_logged(cut)}
    assert last == {record["step"]: record["loss"] for record in steps_logged(whole)}
