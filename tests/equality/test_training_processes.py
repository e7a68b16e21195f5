"""Two processes train as one does, also when one of them has pictures and the other has none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.equality.training_cases import checkpoint, recipe, write_rows

from beholder.training.run import run
from beholder.training.sampler import LengthGroupedSampler

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 420  # a hang is a failure; importing torch alone may take a minute on a busy machine


def start(mode: str, name: str, folder: Path, output: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.equality.training_worker", mode, name, str(folder), str(output)]
    running = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], told


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_ddp_equals_one_process(tmp_path: Path, llama3_tokenizer: Any) -> None:
    folder = checkpoint("cogvlm", tmp_path, llama3_tokenizer)
    write_rows(tmp_path, 8, texts_every=2)
    stage = recipe("cogvlm", folder, tmp_path / "alone", grouping="length", steps=4)
    signs = [1 - 2 * (number % 2) for number in range(8)]
    order = list(LengthGroupedSampler(signs, stage.device_batch, stage.seed))
    firsts = [signs[order[at]] for at in range(0, 8, 2)]
    assert sum(firsts) == 0  # batches are of one kind each
    run(stage)
    start("together", "cogvlm", folder, tmp_path / "both")
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "cogvlm"])
def test_fsdp2_equals_one_process(tmp_path: Path, llama3_tokenizer: Any, name: str) -> None:
    folder = checkpoint(name, tmp_path, llama3_tokenizer)
    write_rows(tmp_path, 8, texts_every=2)
    start("sharded", name, folder, tmp_path)
    told = json.loads((tmp_path / "sharded.json").read_text())
    (loss, norms), (other, others) = told["alone"], told["sharded"]
    assert other == pytest.approx(loss, abs=1e-5)
    assert norms.keys() == others.keys()
    assert others == pytest.approx(norms, rel=1e-3, abs=1e-6)
