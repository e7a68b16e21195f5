"""`benchmarks/native_openvino.py` and `native_vllm.py` with stand-ins for both peers."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.structure.repository import ROOT

import beholder
from beholder.core.errors import BeholderError
from beholder.core.records import RunRecord
from beholder.mini import FOLDER

OPENVINO = """
Tensor = list
"""
GENAI = """
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.0.2"
StreamingStatus = SimpleNamespace(RUNNING=0)


class StreamerBase:
    pass


class VLMPipeline:
    def __init__(self, folder, device, **settings):
        print("this is no JSON")
        assert device == "CPU" and settings["INFERENCE_NUM_THREADS"] == 1, settings
        if Path(folder).name == "broken":
            raise RuntimeError("no such model")
        self.length = int(Path(folder).name)

    def get_generation_config(self):
        return SimpleNamespace()

    def generate(self, prompt, images, generation_config, streamer):
        assert prompt.count("<image>") == 1 and "in the picture" in prompt and len(images) == 1
        assert generation_config.ignore_eos and not generation_config.apply_chat_template
        streamer.write(5)
        streamer.write([5] * (generation_config.max_new_tokens - 1))
        streamer.end()
        return SimpleNamespace(perf_metrics=SimpleNamespace(get_num_input_tokens=lambda: self.length))
"""
VLLM = """
from types import SimpleNamespace

__version__ = "0.0.3"


class SamplingParams:
    def __init__(self, **told):
        assert told["temperature"] == 0 and told["ignore_eos"], told
        self.left = told["max_tokens"]


class LLM:
    def __init__(self, **told):
        assert told["enable_prefix_caching"] and told["max_num_seqs"] == 2 and told["seed"] == 0, told
        self.llm_engine, self.running, self.late = self, {}, told["late"]

    def add_request(self, name, prompt, settings):
        assert len(prompt["prompt_token_ids"]) == 9 and name not in self.running
        self.running[name] = [settings.left, self.late * len(self.running)]

    def has_unfinished_requests(self):
        return bool(self.running)

    def step(self):
        told = []
        for name, one in list(self.running.items()):
            if one[1]:
                one[1] -= 1
                continue
            one[0] -= 1
            told.append(name)
            if not one[0]:
                del self.running[name]
        return told
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that has the stand-ins."""
    held = tmp_path / "held"
    held.mkdir()
    for name, text in (("openvino", OPENVINO), ("openvino_genai", GENAI), ("vllm", VLLM)):
        (held / f"{name}.py").write_text(text)
    made = tmp_path / "python"
    made.write_text(f'#!/bin/sh\nPYTHONPATH={held} exec {sys.executable} "$@"\n')
    made.chmod(0o755)
    monkeypatch.setenv("BEHOLDER_VLLM_PYTHON", str(made))
    monkeypatch.setattr("beholder.benchmarking.machine.PROBE_NUMBERS", 1000)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return made


def run(name: str, monkeypatch: pytest.MonkeyPatch, out: Path, *given: str) -> RunRecord:
    program = runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name=name)
    threads = torch.get_num_threads()
    told = [f"{name}.py", str(FOLDER), *given, "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", told)
    try:
        program["main"]()
    finally:
        torch.set_num_threads(threads)
    return RunRecord.read(out)


def prompt_length() -> int:
    """Of what both are asked."""
    asked = runpy.run_path(str(ROOT / "benchmarks" / "native_openvino.py"), run_name="script")["question"]
    return beholder.load(device="cpu").processor.encode((asked(1),))["input_ids"].shape[1]


def test_openvino_beside_ours_and_transformers(python, monkeypatch, tmp_path):
    length = prompt_length()
    given = ["--openvino", str(python), "--int8", str(tmp_path / str(length + 1)), "--tokens", "3"]
    record = run("native_openvino", monkeypatch, tmp_path / "a.json", *given, "--rounds", "2",
                 "--ours", "bfloat16", "int8")  # fmt: skip
    values = record.values
    assert record.settings["openvino"] == ["openvino-genai 0.0.2 int8"]
    assert record.settings["peer"].startswith("transformers ")
    assert record.settings["decode"].keys() == {"bfloat16", "int8"}
    assert record.samples == 2
    assert values["int8_prompt_tokens"] == length == values["openvino_int8_prompt_tokens"] - 1
    for form, peer in (("int8", "openvino_int8"), ("bfloat16", "transformers")):
        for what in ("first_ms", "ms_per_token"):
            assert values[f"{form}_{what}_over_peer"] == values[f"{form}_{what}"] / values[f"{peer}_{what}"]
    told = runpy.run_path(str(ROOT / "docs" / "measured.py"), run_name="measured")
    _, rows = told["PAGES"]["native-decode.md"]["native-openvino-llava-1.1b"]
    made = [told["said"](value, values) for _, value, _ in rows]
    assert ["{" in row for row in made] == [False, False, True, True, False, False]  # int4 was not measured


def test_openvino_with_another_prompt_is_no_comparison(python, monkeypatch, tmp_path):
    given = ["--openvino", str(python), "--int8", str(tmp_path / "9999"), "--tokens", "2", "--rounds", "1"]
    with pytest.raises(BeholderError, match=r"prompts have \[\d+.*9999.*\] tokens, which is no comparison"):
        run("native_openvino", monkeypatch, tmp_path / "a.json", *given, "--ours", "int8")


def test_a_peer_that_does_not_start_says_why(python, monkeypatch, tmp_path):
    given = ["--openvino", str(python), "--int8", str(tmp_path / "broken"), "--ours", "int8"]
    with pytest.raises(SystemExit, match="OpenVINO ended with 1: RuntimeError: no such model"):
        run("native_openvino", monkeypatch, tmp_path / "a.json", *given)


def test_vllm_beside_ours(python, monkeypatch, tmp_path):
    given = ["--context", "9", "--steps", "4", "--rounds", "1", "--batches", "1", "2", "--vllm", "late=3"]
    record = run("native_vllm", monkeypatch, tmp_path / "a.json", *given)
    values = record.values
    assert record.settings["peer"] == "vllm 0.0.3 bfloat16"
    assert record.settings["vllm"]["late"] == 3
    for rows in (1, 2):
        theirs = values[f"vllm_batch{rows}_ms"]
        assert values[f"int8_batch{rows}_times_vllm"] == theirs / values[f"int8_batch{rows}_ms"]
    told = runpy.run_path(str(ROOT / "docs" / "measured.py"), run_name="measured")
    _, rows = told["PAGES"]["native-decode.md"]["native-vllm-llava-1.1b"]
    assert ["{" in told["said"](value, values) for _, value, _ in rows] == [False, False, True, True]


def test_vllm_whose_rows_are_never_together(python, monkeypatch, tmp_path):
    given = ["--context", "9", "--steps", "4", "--rounds", "1", "--batches", "2", "--vllm", "late=50"]
    with pytest.raises(
        SystemExit, match="vLLM ended with 1: all 2 prompts were answered together in 0 steps"
    ):
        run("native_vllm", monkeypatch, tmp_path / "a.json", *given)


def state_of(number: int) -> str:
    """A letter: R and S for a process that runs and sleeps, T for one that stands still."""
    return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_peer_stands_still_and_is_gone_afterwards(python):
    peers: dict[str, Any] = runpy.run_path(
        str(ROOT / "benchmarks" / "native_peer.py"), run_name="native_peer"
    )
    answers = "import sys\nprint(1, flush=True)\nfor line in sys.stdin: print(line, flush=True, end='')"
    with peers["asked"]([sys.executable, "-c", answers], "somebody") as peer:
        assert peer.about == 1
        with peer.still():
            deadline = time.monotonic() + 10  # a signal is not there at once
            while state_of(peer.process.pid) not in "Tt" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert state_of(peer.process.pid) in "Tt"
        assert peer.ask({"a": 2}) == {"a": 2}
    assert peer.process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(peer.process.pid, 0)
