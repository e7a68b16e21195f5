"""Several real processes, by torchrun or by --shard, end with the files of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

SECONDS = 300  # a hang is a failure
ROWS = 13  # parts of 7 and 6, and of 5, 5 and 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write(folder, Plan(scenes=3, seed=1, split="test"), FontBook())
    return folder


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    run([["-m", *command(data, out)]])
    return out


def command(data: Path, out: Path, *more: str) -> list[str]:
    """The built-in model, in a number format in which the company of a row changes nothing."""
    given = ["--data", str(data), "--out", str(out), "--limit", str(ROWS)]
    return ["beholder", "eval", "worlds", *given, "--device", "cpu", "--dtype", "float32", "--json", *more]


def run(commands: Sequence[Sequence[str]]) -> list[str]:
    """What the programs, started together, write to stdout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    running = [
        subprocess.Popen(
            [sys.executable, *one], env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for one in commands
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), told
    return [out for out, _ in told]


def left(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score and answers, less how long it took and the state of the files that git sees meanwhile."""
    score = json.loads((out / "worlds" / "score.json").read_text())
    score.pop("code")
    answers = [json.loads(line) for line in (out / "worlds" / "answers.jsonl").read_text().splitlines()]
    assert (out / "worlds" / "report.html").read_text().count("<article") == ROWS
    for timed in (score, *answers):
        assert timed.pop("seconds") > 0
    return score, answers


@pytest.mark.slow
def test_two_ranks_of_torchrun(data, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "-m"]
    (printed,) = run([[*ranks, *command(data, tmp_path)]])
    assert left(tmp_path) == left(alone)
    assert json.loads(printed)["worlds"]["samples"] == ROWS, "one rank prints the score, the other nothing"
    parts = [path.name for path in (tmp_path / "worlds").iterdir() if path.is_dir()]
    assert sorted(parts) == ["shard-0-of-2", "shard-1-of-2"]


@pytest.mark.slow
def test_three_shards_started_together(data, alone, tmp_path):
    printed = run([["-m", *command(data, tmp_path, "--shard", f"{part}/3")] for part in range(3)])
    assert left(tmp_path) == left(alone)
    (told,) = [json.loads(text) for text in printed if text]
    assert told["worlds"]["samples"] == ROWS
