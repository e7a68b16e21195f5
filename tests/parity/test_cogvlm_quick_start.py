"""The quick start printed in CogVLM's document runs as it stands; only paths and the device change."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.parity.golden_cogvlm import FOLDER, inputs_of, model, recorded
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    LlamaTokenizer,
)

import beholder
from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.families.cogvlm.config import CogVLMConfig
from beholder.families.cogvlm.processing import CogVLMProcessor

PRINTED = (FOLDER / "quick_start.txt").read_text()
PICTURES = {"1.png": "img0_rgb_320x200.png", "3.jpg": "img2_rgba_256x256.png"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The golden model as a folder that was downloaded; code of its own would stop the test."""
    folder = tmp_path / "cogvlm-chat-hf"
    shutil.copytree(FOLDER / "model", folder)
    for name in ("configuration_cogvlm.py", "modeling_cogvlm.py"):
        (folder / name).write_text("raise AssertionError('remote code ran')")
    return folder


class Answer:
    """What `requests.get(..., stream=True)` gives."""

    def __init__(self, url: str) -> None:
        name = next(shown for printed, shown in PICTURES.items() if f"/{printed}" in url)
        self.raw = BytesIO((FOLDER / "images" / name).read_bytes())


def run(checkpoint: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run the printed code; returns its variables."""
    requests = type("requests", (), {"get": staticmethod(lambda url, stream: Answer(url))})
    monkeypatch.setitem(__import__("sys").modules, "requests", requests)
    code = (
        PRINTED.replace("THUDM/cogvlm-chat-hf", str(checkpoint))
        .replace("lmsys/vicuna-7b-v1.5", str(FOLDER / "tokenizer"))
        .replace('"max_length": 2048', '"max_length": 60')
        .replace("'cuda'", "'cpu'")
        .replace("torch.bfloat16", dtype)
    )
    variables: dict = {}
    exec(compile(code, "quick start", "exec"), variables)
    return variables


@pytest.mark.filterwarnings("ignore:.*torch_dtype.*")
def test_as_printed(checkpoint, monkeypatch, capsys):
    made = run(checkpoint, "torch.bfloat16", monkeypatch)
    assert made["model"].dtype == torch.bfloat16
    assert made["inputs"]["images"][0][0].shape == (3, 56, 56)
    assert made["outputs"].shape[1] > 0
    assert len(capsys.readouterr().out) > 2


@pytest.mark.filterwarnings("ignore:.*torch_dtype.*")
def test_in_full_precision_it_says_what_was_recorded(checkpoint, monkeypatch):
    made = run(checkpoint, "torch.float32", monkeypatch)  # its last variables are those of the vqa example
    said, wanted = made["outputs"][0].tolist(), recorded()["vqa/greedy_new_tokens"][0].tolist()
    if 2 in wanted:
        wanted = wanted[: wanted.index(2) + 1]
    assert made["inputs"]["input_ids"].equal(recorded()["vqa/input_ids"])
    assert said[:16] == wanted[: len(said)]


def test_the_auto_classes_find_it(checkpoint):
    for place in (checkpoint, str(checkpoint)):
        assert isinstance(AutoConfig.from_pretrained(place, trust_remote_code=True), CogVLMConfig)
        assert isinstance(AutoConfig.from_pretrained(place), CogVLMConfig)
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(checkpoint, trust_remote_code=True)) is type(model())


def test_without_a_picture():
    """As the command line of the remote code: no token types, no images, or empty ones."""
    inputs, wanted = inputs_of("text_only"), recorded()["text_only/greedy_new_tokens"]
    greedy = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0}
    for more in ({}, {"images": []}, {"images": [[]]}, {"images": None}, {"token_type_ids": None}):
        given = {"input_ids": inputs["input_ids"], "token_type_ids": inputs["token_type_ids"], **more}
        out = model().generate(
            **{name: value for name, value in given.items() if value is not None}, **greedy
        )
        assert out[:, inputs["input_ids"].shape[1] :].equal(wanted), more


def test_images_as_published_equal_pixel_values():
    inputs = inputs_of("batch2")
    images = [[picture] for picture in inputs.pop("pixel_values")]
    with torch.no_grad():
        assert model()(**inputs, images=images).loss.equal(model()(**inputs_of("batch2")).loss)
    with pytest.raises(InputError, match="images has 1 entries and the batch 2 rows"):
        model()(**inputs, images=images[:1])


def test_more_than_one_picture():
    tokenizer = LlamaTokenizer.from_pretrained(FOLDER / "tokenizer")
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(InputError, match="one picture per question; 2 were given"):
        model().build_conversation_input_ids(tokenizer, query="?", images=[picture, picture])


@pytest.fixture
def complete(checkpoint: Path) -> Path:
    """The same folder with a tokenizer in it."""
    shutil.copytree(FOLDER / "tokenizer", checkpoint, dirs_exist_ok=True)
    return checkpoint


def test_the_front_door(complete):
    vlm = beholder.load(complete, dtype="float32", device="cpu")
    shown = FOLDER / "images" / "img0_rgb_320x200.png"
    answer = vlm.ask(shown, "Describe this image", max_tokens=6)
    wanted = recorded()["chat/greedy_new_tokens"][0, :6].tolist()
    text = vlm.processor.tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert (answer.text, answer.usage.prompt_tokens, answer.usage.picture_tokens) == (text, 29, 18)
    assert vlm.ask(None, "What is the capital of France?", max_tokens=3).usage.picture_tokens == 0
    assert json.loads((complete / "config.json").read_text()).get("model_type") is None


def test_the_processor_is_saved_and_opened_again(complete, tmp_path):
    processor = CogVLMProcessor.from_pretrained(complete)
    assert (processor.slots_per_picture, processor.template, processor.image_processor.side) == (
        18,
        "chat",
        56,
    )
    processor.template = "vqa"
    processor.save_pretrained(tmp_path / "saved")
    again = CogVLMProcessor.from_pretrained(tmp_path / "saved")
    turns = [Message.user(Image.new("RGB", (9, 7), "red"), "How many?")]
    for name, tensor in processor.encode(turns).items():
        assert again.encode(turns)[name].equal(tensor), name
