"""The image-text-to-text pipeline over a tiny 360VL: alone, in batches, with rendered text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Pipeline, PreTrainedTokenizerFast, pipeline

import beholder
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration
from beholder.families.qh360vl.processing import QH360VLProcessor
from beholder.families.qh360vl.views import QH360VLImageProcessor

PICTURE = Image.new("RGB", (30, 20), "red")
LIMITS = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}


@pytest.fixture(scope="module")
def pipe(llama3_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The pipeline as a user opens it: from a folder, by its path alone."""
    token = llama3_tokenizer.convert_tokens_to_ids("<|reserved_special_token_44|>")
    config = QH360VLConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        projector_config={
            "encoder_hidden_size": 16,
            "hidden_size": 16,
            "depth": 1,
            "queries": 4,
            "positions": 5,
        },
        text_config={
            "vocab_size": len(llama3_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        image_token_id=token,
    )
    folder: Path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    QH360VLForConditionalGeneration(config).save_pretrained(folder)
    views = QH360VLImageProcessor(side=28)
    QH360VLProcessor(views, llama3_tokenizer, slots_per_picture=config.slots_per_picture).save_pretrained(
        folder
    )
    return pipeline("image-text-to-text", model=str(folder), device="cpu")


def question(text: str) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": PICTURE}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def answer_without_pipeline(pipe: Pipeline, text: str) -> str:
    inputs = pipe.processor.encode([beholder.Message.user(PICTURE, text)])
    with torch.inference_mode():
        ids = pipe.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return pipe.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_one_conversation(pipe: Pipeline):
    (answer,) = pipe(text=question("What?"), **LIMITS)
    assert answer["generated_text"] == answer_without_pipeline(pipe, "What?")


def test_a_batch_of_unequal_length(pipe: Pipeline):
    texts = ["What?", "What is in the picture, and is there a red circle?"]
    answers = pipe(text=[question(text) for text in texts], batch_size=2, **LIMITS)
    assert [row[0]["generated_text"] for row in answers] == [answer_without_pipeline(pipe, t) for t in texts]


def test_rendered_text_and_a_picture(pipe: Pipeline):
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    text = pipe.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    (answer,) = pipe(images=PICTURE, text=text, **LIMITS)
    assert answer["generated_text"] == answer_without_pipeline(pipe, "What?")
