"""`beholder parity`: the certificate holds for this copy, and a wrong number is told as such."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from docs import parity_record
from safetensors.torch import load_file, save_file

from beholder.cli import main
from beholder.families.parity import Found, difference, relative, summed

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_a_certificate_of_every_stage(tmp_path, capsys):
    out = tmp_path / "certificate.json"
    assert main(["parity", "cogvlm", "--golden", str(GOLDEN), "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["holds"]
    stages = {stage["stage"]: stage for stage in told["stages"]}
    assert {"pixels", "tower", "adapter", "experts", "logits", "16 greedy tokens", "loss"} <= stages.keys()
    assert stages["logits"]["cases"] > 10
    assert 0 < stages["logits"]["difference"] < 1e-4
    assert stages["16 greedy tokens"]["difference"] == 0
    assert capsys.readouterr().out.count("holds") == len(stages)


def test_a_tower_is_compared_at_its_own_resolution_too(tmp_path):
    out = tmp_path / "certificate.json"
    assert main(["parity", "internvl", "--golden", str(GOLDEN), "--json", str(out)]) == 0
    stages = {stage["stage"]: stage for stage in json.loads(out.read_text())["stages"]}
    assert stages["projected features"]["cases"] == 6
    assert stages["pixels (bit for bit)"]["cases"] == 16
    assert "ids of training rows" not in stages  # recorded once, with LLaVA


def test_rows_and_changed_folders_are_compared(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "llava", tmp_path / "llava")
    records = folder / "tokenization" / "records.json"
    told = json.loads(records.read_text())
    told["records"][3]["labels"][-1] += 1
    records.write_text(json.dumps(told))
    assert main(["parity", "llava", "--golden", str(tmp_path)]) == 3
    lines = {line.split("  ")[2].strip() or line: line for line in capsys.readouterr().out.splitlines()}
    failing = [line for line in lines.values() if "DOES NOT HOLD" in line]
    assert len(failing) == 1
    assert "labels of training rows" in failing[0]
    assert all(any(stage in line for line in lines.values()) for stage in ("LoRA: logits", "stage 1: logits"))


def test_a_wrong_number_does_not_hold(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "cogvlm", tmp_path / "cogvlm")
    io = load_file(folder / "io.safetensors")
    io["vqa/logits"][0, -1, 3] += 0.01
    save_file(io, folder / "io.safetensors")
    assert main(["parity", "cogvlm", "--golden", str(tmp_path)]) == 3
    printed = capsys.readouterr().out
    assert printed.count("DOES NOT HOLD (vqa/") == 1
    logits = next(line for line in printed.splitlines() if "DOES NOT" in line)
    assert logits.split()[:2] == ["cogvlm", "logits"]


def test_what_is_not_there_is_said(tmp_path, capsys):
    assert main(["parity", "--golden", str(tmp_path)]) == 1
    assert "has no goldens of 360vl, llava, internvl, cogvlm" in capsys.readouterr().err
    assert main(["parity", "blip", "--golden", str(GOLDEN)]) == 2
    assert "no goldens are known for blip" in capsys.readouterr().err


def test_differences():
    import torch

    one = torch.tensor([1.0, 2.0])
    assert difference(one, one) == 0
    assert difference(one, torch.tensor([1.0, 2.5])) == 0.5
    assert difference(one, one[:1]) == float("inf")
    assert difference(one, torch.tensor([1.0, float("nan")])) == float("inf")
    assert relative(2.0, 1.0) == pytest.approx(1.0)
    stages = summed("x", [Found("a", "1", 0.1, 1.0), Found("a", "2", 3.0, 1.0), Found("b", "1", 0.0, 0.0)])
    assert [(stage.stage, stage.cases, stage.worst, stage.holds) for stage in stages] == [
        ("a", 2, "2", False), ("b", 1, "1", True)
    ]  # fmt: skip


@pytest.mark.skipif(not parity_record.RECORD.exists(), reason="there is no record yet")
def test_the_page_is_made_from_the_record():
    record = json.loads(parity_record.RECORD.read_text())
    assert record["holds"]
    assert parity_record.page(record) == parity_record.PAGE.read_text()
