"""Every family with its language model in a real vLLM; only where there is one."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import closing

import httpx
import pytest
from tests.e2e.test_cluster import body, process, until
from tests.structure.repository import ROOT

import beholder
from beholder.serving.vllm.server import PYTHON_VARIABLE, load_on_vllm

SHAPES = ROOT / "examples" / "shapes.png"
ARGUMENTS = ["enforce-eager", "max-model-len=1024"]
needs_vllm = pytest.mark.skipif(
    not os.environ.get(PYTHON_VARIABLE), reason=f"{PYTHON_VARIABLE} names no Python with vLLM"
)


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


def test_bad_arguments(capsys):
    from beholder.cli import main

    assert main(["serve", "--engine", "fast"]) == 2
    assert main(["serve", "--vllm-arg", "port=1"]) == 2
    assert "--vllm-arg is for --engine vllm" in capsys.readouterr().err


@pytest.mark.vllm
@pytest.mark.slow
@needs_vllm
def test_greedy_tokens_are_ours():
    ours = beholder.load(device="cpu", dtype="float32")
    theirs = load_on_vllm(None, ARGUMENTS, device="cpu", dtype="float32")
    try:
        for picture, question in ((SHAPES, "What shape is red?"), (None, "Hello.")):
            wanted = ours.ask(picture, question, max_tokens=16, logprobs=0)
            answer = theirs.ask(picture, question, max_tokens=16, logprobs=0)
            assert [one.token for one in answer.scores] == [one.token for one in wanted.scores]
            assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
    finally:
        theirs.close()


@pytest.mark.vllm
@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("name", ["360vl", "llava", "internvl", "cogvlm"])
def test_goldens_are_said_as_the_original_said_them(name, benchmarks):
    from vllm_tokens import compare_golden  # pyright: ignore[reportMissingImports]

    told = compare_golden(name, ARGUMENTS)
    assert told["goldens"] >= 3
    assert told["goldens, ours equal"] == told["goldens, vllm equal"] == told["goldens"]


@pytest.mark.vllm
@pytest.mark.slow
@needs_vllm
def test_a_worker_of_a_cluster_answers_with_vllm(tmp_path):
    """Its answers are those of our own engine, streamed and not, and its process goes with the worker."""
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    state = ("--state", str(tmp_path / "state"), "--ray-port", "0", "--port", where[10:], "--no-web")
    engine = ("--engine", "vllm", *(text for one in ARGUMENTS for text in ("--vllm-arg", one)))
    share = ("--controller", where, "--device", "cpu", "--dtype", "float32", *engine)
    wanted = beholder.load(device="cpu", dtype="float32").ask(SHAPES, "What shape is red?").text
    with (
        httpx.Client(base_url=f"http://{where}/v1", trust_env=False, timeout=120) as client,
        process(tmp_path, "controller", *state),
        process(tmp_path, "worker", *share) as worker,
    ):
        until(lambda: [one["state"] for one in client.get("/models").json()["data"]] == ["ready"], tmp_path)
        whole = client.post("/chat/completions", json=body("What shape is red?", temperature=0))
        assert whole.status_code == 200, whole.text
        assert whole.json()["choices"][0]["message"]["content"] == wanted
        asked = body("What shape is red?", temperature=0, stream=True)
        lines = client.post("/chat/completions", json=asked).text.split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        said = (choice["delta"].get("content") or "" for event in events for choice in event["choices"])
        assert "".join(said) == wanted
        worker.terminate()
        assert worker.wait(120) == 0


@pytest.mark.parametrize("name", ["360vl", "llava", "internvl", "cogvlm"])
def test_the_goldens_are_found(name, benchmarks):
    """What the comparison is made of, without vLLM: our own engine says what the original said."""
    from vllm_models import cases, golden  # pyright: ignore[reportMissingImports]
    from vllm_tokens import ids_of  # pyright: ignore[reportMissingImports]

    from beholder.generation.engine import Engine

    _, _, model = golden(name)
    found = list(cases(name, model))
    assert len(found) >= 3
    with closing(Engine(model)) as engine:
        for case in found:
            assert ids_of(engine, case.inputs, len(case.tokens)) == case.tokens, case.name
