"""Every script of examples/ runs and does what its first lines say, in one process and in an empty folder."""

from __future__ import annotations

import asyncio
import json
import runpy
import shutil
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.structure.repository import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Drawn by a test of its own; needs a GPU.
ELSEWHERE = {"draw_shapes.py", "with_vllm.py"}
LINES = 40

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs an example with arguments; what it printed."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def start(name: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [f"examples/{name}", *arguments])
        capsys.readouterr()
        code: object = None
        try:
            runpy.run_path(f"examples/{name}", run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        assert not code
        return capsys.readouterr().out.strip().splitlines()

    return start


@pytest.fixture(scope="module")
def said() -> str:
    """What the built-in model answers to the question of most examples."""
    import beholder

    return beholder.load().ask(ROOT / "examples" / "shapes.png", "What shape is red?").text


def test_ask(run, said):
    assert run("ask.py") == [said]


def test_stream(run):
    lines = run("stream.py")
    assert [line for line in lines if line.startswith("> ")] == [
        "> Describe the picture.",
        "> What shape is blue?",
    ]
    assert len(lines) >= 4


def test_batch_folder(run, said):
    shutil.copy("examples/shapes.png", "examples/again.png")
    Path("examples/broken.png").write_text("no picture")
    told = [json.loads(line) for line in run("batch_folder.py", "examples", "What shape is red?")]
    answers = {one["picture"]: one.get("answer") for one in told}
    assert answers == {"broken.png": None, "again.png": said, "shapes.png": said}


def test_ground_to_coco(run):
    told = json.loads("\n".join(run("ground_to_coco.py", "examples", "blue square")))
    assert [(one["file_name"], one["width"], one["height"]) for one in told["images"]] == [
        ("shapes.png", 640, 480)
    ]
    assert all(len(one["bbox"]) == 4 for one in told["annotations"])


def test_finetune_lora(run):
    answer = run("finetune_lora.py", "mine", "2")[-1]
    assert answer
    kept = load_file("mine/run/adapter/adapter_model.safetensors")
    assert any(bool(tensor.any()) for name, tensor in kept.items() if "lora_B" in name)


def test_with_transformers(run, said):
    assert run("with_transformers.py") == [said, "Yes."]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_with_peft(run):
    losses = [float(line.split()[-1]) for line in run("with_peft.py", "adapter")]
    assert losses[-1] < losses[0]
    assert (Path("adapter") / "adapter_model.safetensors").is_file()


def test_evaluate_own(run):
    run("evaluate_own.py", "mine")
    assert (Path("mine") / "whole" / "mine" / "score.json").is_file()


@pytest.fixture
def server():
    """The API over the built-in model, in a thread of this process."""
    import uvicorn

    import beholder
    from beholder.serving.app import create_app
    from beholder.serving.registry import Registry, Served
    from beholder.serving.settings import Settings

    app = create_app(Registry([Served("beholder-mini", None)]), Settings(), lambda _source: beholder.load())
    serving = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(serving.serve()), daemon=True)
    thread.start()
    while not serving.started:
        thread.join(0.05)
        assert thread.is_alive()
    port = serving.servers[0].sockets[0].getsockname()[1]
    _wait(f"http://127.0.0.1:{port}/ready")
    yield f"http://127.0.0.1:{port}/v1"
    serving.should_exit = True
    thread.join(60)


def _wait(url: str) -> None:
    import time

    import httpx

    until = time.monotonic() + 300
    while httpx.get(url, trust_env=False).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_openai_client(run, server, said):
    assert run("openai_client.py", server) == [said, said]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_run(path: Path):
    text = path.read_text(encoding="utf-8")
    assert path.name == "draw_shapes.py" or len(text.splitlines()) <= LINES
    assert path.name in ELSEWHERE or f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")
