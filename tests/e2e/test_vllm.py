"""Every family with its language model in a real vLLM; only where there is one."""

from __future__ import annotations

import os
import sys
from contextlib import closing

import pytest
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
