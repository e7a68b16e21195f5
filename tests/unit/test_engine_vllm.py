"""`benchmarks/engine_vllm.py` with a stand-in for vLLM: who gets what, who stands still, what is recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from tests.structure.repository import ROOT

import beholder
from beholder.benchmarking.material import Conversations
from beholder.core.errors import BeholderError, ConfigError
from beholder.core.records import RunRecord
from beholder.mini import FOLDER

STAND_IN = """
from types import SimpleNamespace

__version__ = "0.0.1"


class SamplingParams:
    def __init__(self, **told):
        self.told = told


class LLM:
    def __init__(self, place, slots, **told):
        print("this is no JSON")
        assert told["enable_prefix_caching"] and told["enforce_eager"] and told["max_num_seqs"] == 3, told
        if slots == 0:
            raise RuntimeError("no room")
        self.place, self.slots = place, slots

    def generate(self, prompts, settings, use_tqdm):
        outputs = []
        for prompt, one in zip(prompts, settings):
            ids, told = prompt["prompt_token_ids"], one.told
            assert ids.count(self.place) == 1 and prompt["multi_modal_data"]["image"].size == (640, 480)
            assert told["temperature"] == 0 and told["ignore_eos"]
            answer = SimpleNamespace(token_ids=[5] * told["max_tokens"])
            length = len(ids) - 1 + self.slots
            outputs.append(
                SimpleNamespace(prompt_token_ids=[0] * length, num_cached_tokens=7, outputs=[answer])
            )
        return outputs
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script, beside a Python that has the stand-in."""
    (tmp_path / "vllm.py").write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("BEHOLDER_VLLM_PYTHON", str(python))
    monkeypatch.setattr("beholder.benchmarking.machine.PROBE_NUMBERS", 1000)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return run_path(str(ROOT / "benchmarks" / "engine_vllm.py"), run_name="engine_vllm")


def run(program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, results: Path, more: int = 0) -> RunRecord:
    """Measure the built-in model; the stand-in expands a placeholder to so many more than ours."""
    processor = beholder.load(device="cpu").processor
    ids = processor.encode(Conversations().first_turn())["input_ids"]
    slots = int((ids == processor.image_token_id).sum()) + more
    given = ["--repeats", "1", "--requests", "3", "--shortest", "2", "--longest", "4", "--threads", "1"]
    given += ["--vllm", f"place={processor.image_token_id}", "--vllm", f"slots={max(slots, 0)}"]
    monkeypatch.setattr(sys, "argv", ["engine_vllm.py", str(FOLDER), *given, "--results", str(results)])
    program["main"]()
    (file,) = results.iterdir()
    return RunRecord.read(file)


def test_both_answer_the_same_and_the_record_says_who(program, monkeypatch, tmp_path):
    record = run(program, monkeypatch, tmp_path / "results")
    values = record.values
    assert record.measure == "bench vllm"
    assert record.settings["peer"] == "vllm 0.0.1"
    assert record.settings["vllm"]["max_num_seqs"] == 3
    assert values["vllm_second_turn_cached_tokens"] == 7
    assert values["second_turn_cached_tokens"] > 0
    assert 6 <= values["concurrent_tokens"] <= 12
    assert values["second_turn_times_vllm"] == values["vllm_second_turn_ms"] / values["second_turn_ms"]
    tables = run_path(str(ROOT / "benchmarks" / "tables.py"), run_name="tables")
    assert "3 picture requests at once, 2 to 4 tokens, beside vLLM" in tables["table"](
        tables["newest"](tmp_path / "results")
    )


def test_other_prompts_are_no_comparison(program, monkeypatch, tmp_path):
    with pytest.raises(BeholderError, match=r"vLLM's prompt has \d+ tokens and ours \d+"):
        run(program, monkeypatch, tmp_path / "results", more=1)


def test_a_peer_that_does_not_start(program, monkeypatch, tmp_path):
    with pytest.raises(BeholderError, match="vLLM ended: RuntimeError: no room"):
        run(program, monkeypatch, tmp_path / "results", more=-(10**6))


def test_a_folder_or_a_size(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["engine_vllm.py"])
    with pytest.raises(ConfigError, match="give either a folder in llava-hf's layout or --random"):
        program["main"]()
