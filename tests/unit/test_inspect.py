"""Inspecting tells what a checkpoint is and what is wrong with it, and raises for neither."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_checkpoint import SLOTS, make_tiny_checkpoint

from beholder.checkpoints.inspect import examine
from beholder.families import family

FAMILY = family("qh360vl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("whole"), llama3_tokenizer)


def test_a_whole_checkpoint(whole: Path):
    report = examine(whole, FAMILY)
    tensors = load_file(whole / "model.safetensors")
    assert report.is_whole
    assert (report.family, report.title, report.layout) == ("qh360vl", "360VL", "published")
    assert report.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert report.bytes == 4 * report.parameters
    assert report.dtypes == {"F32": report.parameters}
    assert report.tensors == len(tensors)
    assert report.files == ("model.safetensors",)
    assert report.geometry["slots_per_picture"] == SLOTS
    assert report.geometry["context"] == 192
    assert report.geometry["template"] == "Llama-3"


def test_everything_that_is_wrong_is_listed(whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(whole, tmp_path / "broken"))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight")
    tensors["model.norm.weight"] = torch.ones(31)
    tensors["model.extra"] = torch.ones(1)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors")
    report = examine(folder, FAMILY)
    assert not report.is_whole
    assert report.missing == ("lm_head.weight",)
    assert report.mismatched == ("model.norm.weight: [31], must be [32]",)
    assert report.unknown == ("model.extra",)
    assert report.dropped == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    assert [problem[:9] for problem in report.problems] == ["1 missing", "1 of anot", "1 unknown"]


def test_damaged_files_are_told_and_not_raised(whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(whole, tmp_path / "broken"))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    report = examine(folder, FAMILY)
    assert len(report.problems) == 1
    assert "is truncated" in report.problems[0]
    path.unlink()
    assert "but no weights" in examine(folder, FAMILY).problems[0]
