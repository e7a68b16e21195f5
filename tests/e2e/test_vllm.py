"""The built-in model with its language model in a real vLLM; only where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import beholder
from beholder.serving.vllm.server import PYTHON_VARIABLE, load_on_vllm

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"


def test_bad_arguments(capsys):
    from beholder.cli import main

    assert main(["serve", "--engine", "fast"]) == 2
    assert main(["serve", "--vllm-arg", "port=1"]) == 2
    assert "--vllm-arg is for --engine vllm" in capsys.readouterr().err


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get(PYTHON_VARIABLE), reason=f"{PYTHON_VARIABLE} names no Python with vLLM"
)
def test_greedy_tokens_are_ours():
    ours = beholder.load(device="cpu", dtype="float32")
    theirs = load_on_vllm(None, ["enforce-eager", "max-model-len=1024"], device="cpu", dtype="float32")
    try:
        for picture, question in ((SHAPES, "What shape is red?"), (None, "Hello.")):
            wanted = ours.ask(picture, question, max_tokens=16, logprobs=0)
            answer = theirs.ask(picture, question, max_tokens=16, logprobs=0)
            assert [one.token for one in answer.scores] == [one.token for one in wanted.scores]
            assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
    finally:
        theirs.close()
