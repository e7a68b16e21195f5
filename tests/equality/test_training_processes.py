"""Two processes train as one does, also when one of them has pictures and the other has none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.equality.training_cases import checkpoint, recipe, write_rows
from tests.equality.training_worker import LORA, TOGETHER

from beholder.training.resuming import COMPLETE
from beholder.training.run import open_start, run
from beholder.training.sampler import LengthGroupedSampler
from beholder.training.sections import Start

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
    stage = recipe("cogvlm", folder, tmp_path / "alone", **TOGETHER)
    signs = [1 - 2 * (number % 2) for number in range(8)]
    order = list(LengthGroupedSampler(signs, stage.device_batch, stage.seed))
    firsts = [signs[order[at]] for at in range(0, 8, 2)]
    assert sum(firsts) == 0  # batches are of one kind each
    run(stage)
    start("ddp", "cogvlm", folder, tmp_path / "both")
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), abs=2e-5)
    assert_alike(tmp_path / "alone" / "model", tmp_path / "both" / "model", 2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qh360vl", "cogvlm"])
def test_fsdp2_equals_one_process(tmp_path: Path, llama3_tokenizer: Any, name: str) -> None:
    """Also where one process has pictures and the other has none."""
    folder = checkpoint(name, tmp_path, llama3_tokenizer)
    write_rows(tmp_path, 8, texts_every=2)
    run(recipe(name, folder, tmp_path / "alone", **TOGETHER))
    start("fsdp2", name, folder, tmp_path / "both")
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), abs=2e-5)
    assert_alike(tmp_path / "alone" / "model", tmp_path / "both" / "model", 2e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT asks for it
def test_adapters_with_fsdp2_go_on_where_they_were(tmp_path: Path, llama3_tokenizer: Any) -> None:
    folder = checkpoint("internvl_chat", tmp_path, llama3_tokenizer)
    write_rows(tmp_path, 8, texts_every=2)
    run(recipe("internvl_chat", folder, tmp_path / "alone", **TOGETHER | LORA))
    start("fsdp2-lora", "internvl_chat", folder, tmp_path / "both")
    adapter, straight = tmp_path / "both" / "adapter", tmp_path / "straight"
    assert_alike(tmp_path / "alone" / "adapter", adapter, 2e-4)
    adapter.rename(straight)
    (tmp_path / "both" / "checkpoint-4" / COMPLETE).unlink()
    start("fsdp2-lora", "internvl_chat", folder, tmp_path / "both")
    assert_alike(straight, adapter, 0.0)
    shutil.rmtree(adapter)
    start("fsdp2-lora", "internvl_chat", folder, tmp_path / "both")  # nothing is left but to write it
    assert_alike(straight, adapter, 0.0)


def assert_alike(folder: Path, other: Path, bound: float) -> None:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files
    for name in files:
        first, second = load_file(folder / name), load_file(other / name)
        assert first.keys() == second.keys()
        far = {key: float((first[key] - second[key]).abs().max()) for key in first}
        assert max(far.values()) <= bound, max(far, key=lambda key: far[key])


def test_of_several_processes_the_first_puts_the_model_together(
    tmp_path: Path, llama3_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait, and open what it wrote."""
    folder = checkpoint("cogvlm", tmp_path, llama3_tokenizer)
    started = Start(geometry="none", language_model="none", vision_tower="none")
    stage = recipe("cogvlm", tmp_path / "start", tmp_path / "out", start=started)
    monkeypatch.setattr("beholder.training.run.rank", lambda: 1)
    monkeypatch.setattr("beholder.training.run.wait_for_all", lambda: folder.rename(stage.model))
    model, _ = open_start(stage)
    assert model.config.model_type == "cogvlm"
