"""`beholder bench`: its figures are what they say, beside a peer that is the same model, in a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.equality.engine_cases import model
from tests.parity import golden_llava
from tests.structure.repository import ROOT
from transformers import LlavaForConditionalGeneration

import beholder
from beholder.benchmarking.answering import Plan
from beholder.benchmarking.machine import held_bytes, memory_rate
from beholder.benchmarking.material import SIZE, Conversations, picture, second_turn
from beholder.benchmarking.peer import twin
from beholder.benchmarking.run import NAMES, chosen
from beholder.benchmarking.upkeep import formula
from beholder.cli import main
from beholder.core.errors import ConfigError
from beholder.core.records import RunRecord

SMALL = [
    "--repeats", "1", "--tokens", "3", "--requests", "3", "--shortest", "2", "--longest", "5",
    "--growth", "3",
]  # fmt: skip
ANSWERING = "first,decode,batch,concurrent"


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's tensors are as large as caches are; here only that it runs is of interest."""
    monkeypatch.setattr("beholder.benchmarking.machine.PROBE_NUMBERS", 1000)


def run(capsys, *arguments: str) -> RunRecord:
    assert main(["bench", *SMALL, "--json", *arguments]) == 0
    return RunRecord(**json.loads(capsys.readouterr().out))


def test_answering_beside_the_peer(capsys, tmp_path):
    out = tmp_path / "record.json"
    record = run(capsys, "--figures", ANSWERING, "--out", str(out))
    assert RunRecord.read(out) == record
    values = record.values
    assert all(value > 0 for value in values.values())
    assert values["second_turn_times_peer"] == values["peer_second_turn_ms"] / values["second_turn_ms"]
    assert values["concurrent_times_peer"] == pytest.approx(
        values["concurrent_tokens_per_s"] / values["peer_concurrent_tokens_per_s"]
    )
    assert {f"{name}_memory_gb_per_s" for name in ANSWERING.split(",")} < set(values)
    assert record.subject == "beholder-mini"
    assert record.measure == "bench first+decode+batch+concurrent"
    assert record.weights
    assert (record.samples, record.settings["requests"], record.settings["layers"]) == (1, 3, 4)
    assert "transformers" in record.settings["peer"]


def test_upkeep_without_the_peer(capsys, monkeypatch):
    monkeypatch.setattr("beholder.benchmarking.upkeep.SETTLING", 2)
    record = run(capsys, "--no-peer", "--figures", "overhead,memory", "--threads", "1")
    values = record.values
    assert values["kv_bytes_per_token"] == values["kv_bytes_per_token_formula"] > 0
    assert (values["blocks_left_in_use"], values["growth_requests"]) == (0, 3)
    assert 0 < values["least_overhead_ms_per_step"] <= values["overhead_ms_per_step"]
    assert (record.settings["threads"], record.settings["peer"]) == (1, "none")
    assert record.settings["engine"] == {"threads": 1}
    assert not any(name.startswith("peer") for name in values)


def test_keys_and_values_in_bytes_take_what_the_formula_says(capsys):
    record = run(capsys, "--no-peer", "--figures", "memory", "--kv-dtype", "int8")
    assert (
        record.values["kv_bytes_per_token"] == record.values["kv_bytes_per_token_formula"] == 2 * 4 * 2 * 68
    )
    assert record.settings["engine"] == {"kv_dtype": "int8"}


@pytest.mark.slow
def test_pictures_and_a_cold_start(capsys):
    assert main(["bench", *SMALL, "--figures", "startup,preprocessing"]) == 0
    shown = capsys.readouterr().out
    found = {line.split()[0]: float(line.split()[1]) for line in shown.splitlines() if line.startswith(" ")}
    parts = sum(found[name] for name in ("import_s", "load_s", "prepare_s", "answer_s"))
    assert 0 < parts <= found["cold_first_token_s"] + 0.1
    assert 0 < found["preprocess_12mp_open_ms"] < found["preprocess_12mp_ms"]
    assert found["preprocess_12mp_pillow_rgb_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--figures", "speed"], "there are no figures speed; known: first, decode"),
        (["--layers", "2"], "--layers belongs to --random"),
        (["--kv-dtype", "int4"], "--kv-dtype is 'int4'; it must be int8"),
        (["somewhere", "--random", "llava-1.1b"], "measure either somewhere or --random llava-1.1b"),
        (["--shortest", "9", "--longest", "8"], "--shortest 9 is above --longest 8"),
        (["--random", "llava-9b"], "there is no published size 'llava-9b'"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(arguments, said, capsys):
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_figures_are_run_in_one_order():
    assert chosen([]) == NAMES
    assert chosen(["memory", "first"]) == ("first", "memory")


def test_the_peer_is_transformers_own_class_over_the_same_numbers():
    ours = golden_llava.model_of("llava", "sdpa")
    theirs = twin(ours)
    assert type(theirs) is LlavaForConditionalGeneration
    assert all(
        one.data_ptr() == other.data_ptr()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    inputs = golden_llava.inputs_of("llava", "one_image")
    with torch.inference_mode():
        rows = ours.config.used_rows
        assert torch.equal(ours(**inputs).logits[..., :rows], theirs(**inputs).logits[..., :rows])
    assert twin(model()) is model()  # transformers has no such class


def test_the_formula_is_the_configurations():
    text = model().config.text_config
    heads, width = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
    assert formula(model().config, 2) == 2 * text.num_hidden_layers * heads * width * 2


def test_no_two_pictures_of_a_run_are_the_same():
    material = Conversations()
    first, other = material.first_turn(), material.varied()
    assert first[0].pictures[0].size == SIZE
    assert first[0].pictures[0].tobytes() != other[0].pictures[0].tobytes()
    assert picture(7).tobytes() == picture(7).tobytes()
    later = second_turn(first)
    assert later[:1] == first
    assert [message.role for message in later] == ["user", "assistant", "user"]
    again, lengths = Conversations(), [material.answer_length(16, 256) for _ in range(50)]
    assert 16 <= min(lengths) < max(lengths) <= 256
    assert lengths == [again.answer_length(16, 256) for _ in range(50)]


def test_the_machine_says_something():
    assert memory_rate(torch.device("cpu")) > 0
    held = held_bytes()
    assert held is None or held > 2**20


def test_a_model_that_runs_by_its_own_generate_is_told_so():
    from beholder.benchmarking.run import run as measure

    vlm = beholder.load(device="cpu")
    vlm.engine = object()
    with pytest.raises(ConfigError, match="runs by its own generate, so there is no overhead"):
        measure(
            vlm, Plan(), ("overhead",), subject="", weights="", with_peer=False, source="", loading={}
        )  # fmt: skip


def test_the_page_of_benchmarks_shows_its_records():
    from runpy import run_path

    tables = run_path(str(ROOT / "benchmarks" / "tables.py"), run_name="tables")
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    wanted = tables["renewed"](page, tables["table"](tables["newest"](ROOT / "benchmarks" / "results")))
    assert page == wanted


def test_the_newest_record_of_a_figure_counts(tmp_path: Path):
    from dataclasses import replace
    from runpy import run_path

    tables = run_path(str(ROOT / "benchmarks" / "tables.py"), run_name="tables")
    told = {"layers": 2, "dtype": "float32", "threads": 1, "peer": "p", "peers_not_installed": ["vllm"]}
    old = RunRecord(
        subject="m", weights="", measure="bench first+decode", samples=1, settings=told, code="c" * 40,
        machine="box", packages={"torch": "2.0"}, seconds=1.0,
        values={"first_token_ms": 1234.5, "decode_ms_per_token": 91.26, "decode_memory_gb_per_s": 35.0},
    )  # fmt: skip
    old.write(tmp_path / "engine-m-all-2026-01-01.json")
    new = replace(old, measure="bench decode", values={"decode_ms_per_token": 80.04})
    new.write(tmp_path / "engine-m-decode-2026-01-02.json")
    made = tables["table"](tables["newest"](tmp_path))
    assert "| m | first token, first turn | ms | 1,234 |  | ≤ 0.9 × the peer's |  |" in made
    assert "| m | one answer | ms per token | 80 |" in made
    assert "91.3" not in made
    assert "not installed: vllm" in made
    assert tables["table"]({}) == tables["NONE_YET"]


def test_the_page_tells_what_a_peer_was_better_at(tmp_path: Path):
    from dataclasses import replace
    from runpy import run_path

    tables = run_path(str(ROOT / "benchmarks" / "tables.py"), run_name="tables")
    told = {
        "layers": 2, "dtype": "float32", "threads": 1, "peer": "vllm 0.1", "peers_not_installed": [],
        "requests": 16, "shortest": 16, "longest": 256,
    }  # fmt: skip
    beside = RunRecord(
        subject="m", weights="", measure="bench vllm", samples=1, settings=told, code="c" * 40,
        machine="box", packages={"torch": "2.0"}, seconds=1.0,
        values={
            "first_token_ms": 300.0, "vllm_first_token_ms": 200.0, "second_turn_ms": 10.0,
            "vllm_second_turn_ms": 20.0, "concurrent_tokens_per_s": 40.0,
            "vllm_concurrent_tokens_per_s": 50.0,
        },
    )  # fmt: skip
    beside.write(tmp_path / "engine-m-vllm-2026-01-01.json")
    made = tables["table"](tables["newest"](tmp_path))
    assert (
        "| m | first token, second turn on the picture, beside vLLM | ms | 10 | 20 | ≥ 1.5 × faster |" in made
    )
    assert (
        "A peer was better at: m, first token, first turn, beside vLLM (1.50 ×); "
        "m, 16 picture requests at once, 16 to 256 tokens, beside vLLM (1.25 ×)."
    ) in made
    assert "peer: vllm 0.1" in made
    better = replace(beside, values={"first_token_ms": 100.0, "vllm_first_token_ms": 200.0})
    better.write(tmp_path / "engine-m-vllm-2026-01-01.json")
    made = tables["table"](tables["newest"](tmp_path))
    assert "No peer was better at one of the 1 figures that were measured beside it." in made
