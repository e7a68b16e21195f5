"""Folders that hold no model of themselves, or one that only a library's own rules refuse: what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.parity.golden_cogvlm import FOLDER as COGVLM
from tests.parity.golden_llava import CLIP, FOLDER

from beholder import load
from beholder.checkpoints.doctor import Diagnosis, diagnose
from beholder.checkpoints.loader import open_model
from beholder.cli import main
from beholder.core.errors import BeholderError
from beholder.families import identify_folder

LAYER = "model.language_model.layers.0.self_attn.q_proj"
MODEL = "model.safetensors"


def told(folder: Path, **options: Any) -> Diagnosis:
    return diagnose(folder, identify_folder, **options)


def problems(folder: Path) -> str:
    found = told(folder)
    assert not found.is_healthy
    return "\n".join(f"{finding.problem} | {finding.remedy}" for finding in found.findings)


@pytest.fixture
def whole(tmp_path) -> Path:
    """LLaVA's golden beside its tower, with a tokenizer."""
    shutil.copytree(CLIP, tmp_path / CLIP.name)
    folder = Path(shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model"))
    shutil.copy(FOLDER / "tokenizer" / "tokenizer.model", folder)
    return folder


@pytest.fixture
def trained(whole, tmp_path) -> Path:
    """An adapter as `beholder train` leaves it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [LAYER]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter.json").write_text(json.dumps({"base": str(whole)}))
    write_halves(folder, torch.ones(2, 64), torch.ones(64, 2))
    return folder


def write_halves(folder: Path, down: torch.Tensor, up: torch.Tensor, layer: str = LAYER) -> None:
    inside = f"base_model.model.{layer}"
    halves = {f"{inside}.lora_A.weight": down, f"{inside}.lora_B.weight": up}
    save_file(halves, folder / "adapter_model.safetensors")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks it
def test_an_adapter_of_our_training_is_healthy_where_it_opens(trained, whole):
    found = told(trained)
    assert found.findings == ()
    assert found.notes == (f"this is an adapter, which is opened with its base model: {whole}",)
    load(trained, device="cpu").close()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("to", ["published", "ours"])
def test_an_adapter_of_our_training_is_merged_and_proved(to, trained, whole, tmp_path, capsys):
    torch.manual_seed(3)
    down, up = torch.randn(2, 64), torch.randn(64, 2) / 8
    write_halves(trained, down, up)
    target = tmp_path / "merged"
    assert main(["merge", str(trained), str(target), "--to", to, "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)["proof"]
    assert 0 <= proof["difference"] <= proof["allowed"]
    before, after = (
        open_model(one, identify_folder(one), device="cpu").state_dict() for one in (whole, target)
    )
    changed = f"{LAYER}.weight"
    torch.testing.assert_close(after[changed], before[changed] + up @ down * (4 / 2), rtol=0, atol=1e-5)
    rows = open_model(whole, identify_folder(whole), device="cpu").config.used_rows
    assert all(torch.equal(after[name][:rows], before[name][:rows]) for name in before if name != changed)
    assert told(target).findings == ()
    assert main(["merge", str(trained), str(target)]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", CLIP.name, "merged", "model"]


@pytest.mark.parametrize(
    ("down", "up", "layer", "sentence"),
    [
        ((2, 32), (64, 2), LAYER, "1 tensors of the adapter have no place in"),
        ((2, 64), (64, 2), LAYER.replace(".0.", ".9."), "2 tensors of the adapter have no place in"),
    ],
)
def test_an_adapter_of_another_model(trained, down, up, layer, sentence):
    write_halves(trained, torch.ones(down), torch.ones(up), layer)
    assert sentence in problems(trained)


def test_an_adapter_whose_base_is_broken_or_gone(trained, whole):
    (whole / MODEL).write_bytes((whole / MODEL).read_bytes()[:-8])
    assert "is truncated" in problems(trained)
    shutil.rmtree(whole)
    assert "--base FOLDER" in problems(trained)
    (trained / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors of the adapter are missing" in problems(trained)


def test_an_adapter_of_peft_alone(trained):
    (trained / "adapter.json").unlink()
    settings = json.loads((trained / "adapter_config.json").read_text())
    (trained / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "a/b"}))
    assert "as PEFT alone saves it, of the base model a/b" in problems(trained)


def test_the_folder_above(whole):
    assert "give the folder itself that holds the checkpoint: " in problems(whole.parent)
    assert whole.name in problems(whole.parent)


def header(folder: Path, edit: Any) -> None:
    data = (folder / MODEL).read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    edit(head)
    text = json.dumps(head).encode()
    (folder / MODEL).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_what_only_safetensors_refuses(whole):
    """It opens no file whose notes are not texts, or with a number format of nobody, needed or not."""
    original = (whole / MODEL).read_bytes()
    header(whole, lambda head: head.update(__metadata__={"format": 1}))
    assert "safetensors refuses it" in problems(whole)
    (whole / MODEL).write_bytes(original)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    end = len(original) - 8 - int.from_bytes(original[:8], "little")
    (whole / MODEL).write_bytes(original + bytes(32))
    entry = {"dtype": "F32", "shape": [8], "data_offsets": [end, end + 32]}
    header(whole, lambda head: head.update({name: entry}))
    assert told(whole).is_healthy
    header(whole, lambda head: head[name].update(dtype="G32"))
    assert f"{name} is G32, which is no number format" in problems(whole)


def test_a_sat_folder_says_what_it_is(capsys):
    folder = COGVLM / "sat"
    assert main(["inspect", str(folder)]) == 3
    shown = capsys.readouterr().out
    for fact in ("CogVLM (cogvlm)", "sat, 1 rank", "3 x 64", "--to published"):
        assert fact in shown
    with pytest.raises(BeholderError, match=r"SAT checkpoint \(CogVLM\).* beholder convert"):
        load(folder)


def test_broken_settings_of_an_adapter(trained, whole):
    (trained / "config.json").write_text((whole / "config.json").read_text())
    (trained / "adapter_config.json").write_text("{")
    assert "adapter_config.json is not valid JSON" in problems(trained)
    with pytest.raises(BeholderError, match="is not valid JSON"):
        load(trained)
