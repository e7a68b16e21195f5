"""The quick start printed on the model card runs as it stands; only paths and the device are put in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.parity.golden_360vl import FOLDER, released_model
from transformers import pipeline

import beholder  # noqa: F401  (makes the Auto classes know the model type)
from beholder.core.types import Message
from beholder.families.qh360vl.processing import QH360VLProcessor
from beholder.families.qh360vl.templates import PICTURE_TOKEN, PUBLISHED_SYSTEM_PROMPT

PRINTED = (FOLDER / "quick_start.txt").read_text()
PICTURE = FOLDER / "images" / "landscape.png"


@pytest.fixture
def checkpoint(tmp_path: Path, llama3_tokenizer) -> Path:
    """The golden model with a tokenizer, as a folder that was downloaded; code of its own would stop the
    test.
    """
    folder = tmp_path / "360VL-8B"
    shutil.copytree(FOLDER / "vision_tower", folder / "vision_tower")
    shutil.copyfile(FOLDER / "model.safetensors", folder / "model.safetensors")
    llama3_tokenizer.save_pretrained(folder)
    config = json.loads((FOLDER / "config.json").read_text())
    config["image_token_id"] = llama3_tokenizer.convert_tokens_to_ids(PICTURE_TOKEN)
    config["auto_map"] = {
        "AutoConfig": "modeling_360vl.QH360_VLConfig",
        "AutoModelForCausalLM": "modeling_360vl.QH360_VL_LlamaForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_360vl.py").write_text("raise AssertionError('remote code ran')")
    return folder


def run(checkpoint: Path, place: Path, device: str, tokens: int = 8) -> dict:
    """Run the printed code; returns its variables."""
    (place / "docs").mkdir()
    Image.open(PICTURE).save(place / "docs" / "008.jpg")
    code = (
        PRINTED.replace("qihoo360/360VL-8B", str(checkpoint))
        .replace("max_new_tokens=512", f"max_new_tokens={tokens}")
        .replace('"cuda"', repr(device))
        .replace("'cuda'", repr(device))
    )
    here = os.getcwd()
    os.chdir(place)
    variables: dict = {}
    try:
        exec(compile(code, "quick start", "exec"), variables)
    finally:
        os.chdir(here)
    return variables


def test_as_printed(checkpoint, tmp_path, capsys):
    made = run(checkpoint, tmp_path, "cpu")
    assert made["model"].dtype == torch.float16
    ids, out = made["input_ids"], made["output_ids"]
    assert (ids == -200).sum() == 1
    assert made["images"].shape == (1, 5, 3, 56, 56)
    assert torch.equal(out[:, : ids.shape[1]], ids)
    assert 1 <= out.shape[1] - ids.shape[1] <= 8
    assert made["outputs"] in capsys.readouterr().out


@pytest.mark.gpu
def test_as_printed_on_a_gpu(checkpoint, tmp_path):
    made = run(checkpoint, tmp_path, "cuda")
    assert made["model"].device.type == "cuda"
    assert made["output_ids"].shape[1] > made["input_ids"].shape[1]


def test_the_prompt_is_the_processors(checkpoint, tmp_path):
    """-200 stands where the processor writes all slots; all else is the same, system prompt included."""
    made = run(checkpoint, tmp_path, "cpu", tokens=1)
    processor = QH360VLProcessor.from_pretrained(checkpoint)
    assert processor.system_prompt == PUBLISHED_SYSTEM_PROMPT
    picture = Image.open(tmp_path / "docs" / "008.jpg").convert("RGB")
    encoded = processor.encode([Message.user(picture, made["query"])])
    ids = made["input_ids"][0].tolist()
    place = ids.index(-200)
    assert encoded["input_ids"][0].tolist() == [
        *ids[:place],
        *[processor.image_token_id] * 32,
        *ids[place + 1 :],
    ]
    assert torch.equal(made["inputs"]["image"], encoded["pixel_values"])


def test_the_tower_under_its_old_interface():
    tower = released_model().get_vision_tower()
    assert tower.is_loaded
    tower.load_model()
    assert tower.to(device="cpu", dtype=torch.float32) is tower
    picture = Image.open(PICTURE).convert("RGB")
    views = released_model().process_images_slid_window(picture, tower.image_processor)
    assert views.shape == (5, 3, 56, 56)
    assert tower(views).shape == (5, 16, 32)


def test_the_pipeline_of_transformers(checkpoint):
    """The generic way of asking says what our processor and the model say."""
    pipe = pipeline("image-text-to-text", model=str(checkpoint))
    content = [{"type": "image", "url": str(PICTURE)}, {"type": "text", "text": "What is it?"}]
    (told,) = pipe(
        text=[{"role": "user", "content": content}], max_new_tokens=6, do_sample=False, return_full_text=False
    )
    processor = QH360VLProcessor.from_pretrained(checkpoint)
    inputs = processor.encode([Message.user(Image.open(PICTURE).convert("RGB"), "What is it?")])
    out = pipe.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert told["generated_text"] == processor.tokenizer.decode(new, skip_special_tokens=True)
    assert len(told["generated_text"]) > 0
