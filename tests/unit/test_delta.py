"""Differences from a base model: made, applied, refused where the base is another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_llava import CLIP, FOLDER

from beholder.cli import main

MODEL = "model.safetensors"


@pytest.fixture
def place(tmp_path) -> Path:
    """A model with two rows more than its base, beside the base and the tower."""
    shutil.copytree(CLIP, tmp_path / CLIP.name)
    shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model")
    base = Path(shutil.copytree(FOLDER / "lora" / "vicuna-tiny", tmp_path / "base"))
    held = load_file(base / MODEL)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        held[name] = held[name][:510].contiguous()
    save_file(held, base / MODEL)
    return tmp_path


def test_there_and_back(place, capsys):
    base = ["--base", str(place / "base")]
    assert main(["delta", "make", str(place / "model"), str(place / "delta"), *base]) == 0
    shown = capsys.readouterr().out
    assert "21 tensors with those of the base, 4 as they are" in shown
    assert "longer than the base's: lm_head.weight" in shown
    whole, start = load_file(place / "model" / MODEL), load_file(place / "base" / MODEL)
    delta = load_file(place / "delta" / MODEL)
    assert delta.keys() == whole.keys()
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        assert torch.equal(delta[name], whole[name] - start[name])
    rows = "lm_head.weight"
    assert torch.equal(delta[rows][:510], whole[rows][:510] - start[rows])
    assert torch.equal(delta[rows][510:], whole[rows][510:])
    assert torch.equal(delta["model.mm_projector.0.weight"], whole["model.mm_projector.0.weight"])
    assert main(["delta", "apply", str(place / "delta"), str(place / "back"), *base, "--json"]) == 0
    back = load_file(place / "back" / MODEL)
    for name, tensor in whole.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=1e-6)
    assert (place / "back" / "config.json").read_bytes() == (place / "model" / "config.json").read_bytes()


def changed(folder: Path, edit) -> None:
    held = load_file(folder / MODEL)
    edit(held)
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / MODEL)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda held: held.pop("model.norm.weight"), "it lacks 1 tensors, model.norm.weight"),
        (lambda held: held.update({"model.norm.weight": torch.ones(32)}), "1 tensors have another shape"),
        (lambda held: held.update({"lm_head.weight": torch.ones(600, 64)}), "1 tensors have another shape"),
        (lambda held: held.update({"more": torch.ones(1)}), "lacks 1 tensors of its base model, more"),
    ],
)
def test_another_base_is_refused(place, capsys, edit, sentence):
    changed(place / "base", edit)
    assert main(["delta", "make", str(place / "model"), str(place / "x"), "--base", str(place / "base")]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(place.glob("x*"))


def test_tables_that_follow_from_the_configuration_are_no_differences(place, capsys):
    """Files of before transformers 4.31 hold them; a base of today does not."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    changed(place / "model", lambda held: held.update({name: torch.zeros(8)}))
    base = ["--base", str(place / "base")]
    assert main(["delta", "apply", str(place / "model"), str(place / "whole"), *base]) == 0
    assert name not in load_file(place / "whole" / MODEL)
    changed(place / "base", lambda held: held.update({name: torch.ones(8)}))
    assert main(["delta", "make", str(place / "whole"), str(place / "delta"), *base]) == 0
    assert name not in load_file(place / "delta" / MODEL)
