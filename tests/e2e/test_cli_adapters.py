"""Adapters and templates on the command line: `--base`, `--template`, the original flags, and `merge`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_llava import CLIP, FOLDER, beside_base, close, recorded

from beholder import load
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.merge import prove
from beholder.checkpoints.reader import read_contents
from beholder.cli import main
from beholder.families import identify_folder

PICTURE = FOLDER / "preprocess" / "square.png"


@pytest.fixture
def adapter(tmp_path) -> Path:
    return beside_base("lora", "llava-tiny-lora", tmp_path)


@pytest.fixture
def whole(tmp_path) -> Path:
    shutil.copytree(CLIP, tmp_path / CLIP.name)
    folder = Path(shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model"))
    for file in (FOLDER / "tokenizer").glob("*[!d]"):
        shutil.copy(file, folder)
    return folder


def ask(capsys, *arguments: str) -> dict:
    assert main(["ask", str(PICTURE), "What is it?", "--json", "--max-tokens", "8", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_base_by_its_option_and_by_its_old_flag(adapter, capsys):
    usual = ask(capsys, "-m", str(adapter))
    base = adapter.parent / "vicuna-tiny"
    base = base.rename(adapter.parent / "elsewhere")
    assert main(["ask", str(PICTURE), "What is it?", "-m", str(adapter)]) == 1
    assert "belongs to the base model 'vicuna-tiny'" in capsys.readouterr().err
    for flags in (["--base", str(base)], ["--model-base", str(base)]):
        assert ask(capsys, "--model-path", str(adapter), *flags)["text"] == usual["text"]
    assert main(["inspect", str(adapter), "--model-base", str(base)]) == 0
    assert "whole: yes" in capsys.readouterr().out
    assert main(["doctor", str(adapter), "--base", str(base)]) == 0


def test_a_template(whole, capsys):
    usual, v1, plain = (
        ask(capsys, "-m", str(whole), *flags)
        for flags in ([], ["--template", "vicuna_v1"], ["--conv-mode", "llava_llama_2"])
    )
    assert usual["text"] == v1["text"]
    assert plain["usage"]["prompt_tokens"] != usual["usage"]["prompt_tokens"]
    assert main(["ask", str(PICTURE), "What?", "-m", str(whole), "--template", "nonesuch"]) == 2
    assert "nonesuch" in capsys.readouterr().err
    assert main(["ask", str(PICTURE), "What?", "--template", "vicuna_v1"]) == 2
    assert "has one way to write conversations" in capsys.readouterr().err


def test_a_stop_text_of_the_template_ends_an_answer(whole, monkeypatch):
    vlm = load(whole)
    said = vlm.ask(PICTURE, "What is it?", max_tokens=16).text
    stop = said[4:6]
    monkeypatch.setattr(type(vlm.processor), "stop", (stop,))
    answer = vlm.ask(PICTURE, "What is it?", max_tokens=16)
    assert answer.text == said[: said.index(stop)].rstrip()
    assert answer.finish_reason == "stop"
    vlm.close()


@pytest.mark.parametrize("to", ["published", "ours", "llava-hf"])
def test_merge(adapter, tmp_path, capsys, to):
    target = tmp_path / "merged"
    assert main(["merge", str(adapter), str(target), "--to", to, "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)["proof"]
    assert 0 <= proof["difference"] <= 1e-5
    assert proof["largest"] > 1
    assert proof["same_choice"] == proof["positions"]
    io = recorded("lora")
    ids = [[512] * 16 if token == -200 else [token] for token in io["input_ids"][0].tolist()]
    model = open_model(target, identify_folder(target), device="cpu")
    with torch.no_grad():
        logits = model(
            torch.tensor([[token for tokens in ids for token in tokens]]), pixel_values=io["pixel_values"]
        ).logits
    close(logits[..., :512], io["logits"])
    assert main(["doctor", str(target)]) == 0


def test_merge_needs_an_adapter(whole, tmp_path, capsys):
    assert main(["merge", str(whole), str(tmp_path / "merged")]) == 2
    assert "is a whole model" in capsys.readouterr().err


def test_a_projector_is_merged_too(tmp_path, capsys):
    folder = beside_base("stage1", "llava-tiny-pretrain", tmp_path)
    assert (
        main(["merge", str(folder), str(tmp_path / "merged"), "--base", str(tmp_path / "vicuna-tiny")]) == 0
    )
    assert "largest difference of logits before and after: 0 " in capsys.readouterr().out


def test_a_proof_that_does_not_hold(adapter, tmp_path, capsys):
    """A merged folder whose weights were changed is found out."""
    from PIL import Image

    from beholder.core.types import Message

    target = tmp_path / "merged"
    assert main(["merge", str(adapter), str(target)]) == 0
    name = "model.layers.0.self_attn.q_proj.weight"
    file = target / read_contents(target).tensors[name].file
    held = load_file(file)
    held[name] *= 1.01
    save_file(held, file)
    question = [Message.user(Image.open(PICTURE), "What is it?")]
    proof = prove(adapter, target, identify_folder(adapter), question)
    assert not proof.holds


def test_in_half_precision_rounding_is_allowed(adapter, tmp_path, capsys):
    base = tmp_path / "vicuna-tiny" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(base).items()}, base)
    assert main(["merge", str(adapter), str(tmp_path / "merged"), "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)["proof"]
    assert 1e-5 < proof["difference"] < proof["allowed"]
