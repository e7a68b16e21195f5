"""CogVLM's prompts, ids, labels and answers against those of the original's own code."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from PIL import Image
from tests.parity.golden_cogvlm import FOLDER, case_of, inputs_of, model, recorded, told
from transformers import LlamaTokenizer

from beholder.core.types import Message
from beholder.families.cogvlm.processing import CogVLMProcessor
from beholder.families.cogvlm.sat_text import (
    SEPARATORS,
    answer_text,
    inference_row,
    prompt_text,
    training_row,
)
from beholder.families.cogvlm.spelling import ids_of
from beholder.families.cogvlm.templates import question_text
from beholder.families.cogvlm.views import CogVLMImageProcessor

RECORDED: dict[str, Any] = told("tokenization")
BUILT = RECORDED["build_conversation_input_ids"]
TRAINED = RECORDED["sat_text_processor_train"]
ASKED = RECORDED["sat_text_processor_inference"]
SHOWN = RECORDED["sat_response_postprocessing"]
PICTURE = Image.new("RGB", (8, 8))
# Spelled special tokens: the original lets them count, our processor takes a user's text literally.
SPECIAL = ("<s>", "</s>", "<unk>")


@pytest.fixture(scope="module")
def tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def processor(tokenizer) -> CogVLMProcessor:
    slots = RECORDED["vision_tokens"]
    return CogVLMProcessor(CogVLMImageProcessor(side=4), tokenizer, slots_per_picture=slots)


def pairs(case: dict[str, Any]) -> list[tuple[str, str]]:
    return [(question, answer) for question, answer in case["history"]]


def test_enough_was_recorded():
    assert (len(BUILT), len(TRAINED), len(ASKED), len(SHOWN)) == (44, 11, 14, 10)


@pytest.mark.parametrize("case", BUILT, ids=range(len(BUILT)))
def test_the_published_method(case, tokenizer):
    built = model().build_conversation_input_ids(
        tokenizer,
        query=case["query"],
        history=pairs(case),
        images=[PICTURE] if case["image"] else None,
        template_version=case["template"],
        answer=case["answer"],
    )
    assert question_text(case["template"], case["query"], pairs(case)) == case["prompt"]
    assert built["input_ids"].tolist() == case["input_ids"]
    assert built["token_type_ids"].tolist() == case["token_type_ids"]
    assert built["attention_mask"].tolist() == [1] * len(case["input_ids"])
    if case["answer"] is None:
        assert built["labels"] is None
    else:
        assert built["labels"].tolist() == case["labels"]
    if case["image"]:
        assert [tuple(picture.shape) for picture in built["images"]] == [(3, 56, 56)]
    else:
        assert built["images"] is None


WITH_PICTURE = [case for case in BUILT if case["image"] and not any(s in case["prompt"] for s in SPECIAL)]


@pytest.mark.parametrize("case", WITH_PICTURE, ids=range(len(WITH_PICTURE)))
def test_the_processor(case, processor):
    """The picture in the first question, which is where people show it, and the answer as a last turn."""
    processor.template = case["template"]
    turns: list[Message] = []
    for question, answer in pairs(case):
        turns += [Message.user(question), Message.assistant(answer)]
    turns.append(Message.user(case["query"]))
    turns[0] = Message.user(PICTURE, turns[0].text)
    if case["answer"] is None:
        encoded = processor.encode(turns)
        assert encoded["input_ids"].tolist() == [case["input_ids"]]
        assert encoded["token_type_ids"].tolist() == [case["token_type_ids"]]
        assert tuple(encoded["pixel_values"].shape) == (1, 3, 4, 4)
    else:
        row = processor.encode_training([*turns, Message.assistant(case["answer"])])
        assert (row["input_ids"], row["labels"]) == (case["input_ids"], case["labels"])
        assert row["token_type_ids"] == case["token_type_ids"]


def test_enough_goes_through_the_processor():
    assert len(WITH_PICTURE) >= 20
    assert any(case["answer"] for case in WITH_PICTURE)


@pytest.mark.parametrize("case", ["chat", "chat_two_turn", "vqa", "base_empty", "grounding"])
def test_what_the_model_was_recorded_with(case, tokenizer):
    told_of = case_of(case)
    built = model().build_conversation_input_ids(
        tokenizer,
        query=told_of["query"],
        history=told_of["history"],
        images=[Image.open(FOLDER / "images" / told_of["image"]).convert("RGB")],
        template_version=told_of["template"],
    )
    assert built["input_ids"].tolist() == inputs_of(case)["input_ids"][0].tolist()
    assert built["images"][0].equal(recorded()[f"{case}/pixels"][0])


@pytest.mark.parametrize("case", TRAINED, ids=range(len(TRAINED)))
def test_training_rows_of_the_original(case, tokenizer):
    settings = {name: case[name] for name in ("version", "max_target_length", "image_length", "revision")}
    row = training_row(case["caption"], case["prompt"], tokenizer, **settings)
    if case["result"] is None:
        assert row is None
        return
    assert row is not None
    theirs = {**case["result"], "context_length": case["result"]["context_length"][0]}
    assert asdict(row) == {name: _numbers(value) for name, value in theirs.items()}


def _numbers(value: Any) -> Any:
    return [int(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", ASKED, ids=range(len(ASKED)))
def test_prompts_of_the_original(case, tokenizer):
    revision, version = case["revision"], case["version"]
    assert prompt_text(version, case["query"], pairs(case), revision) == case["prompt"]
    assert SEPARATORS[revision][version] == case["sep"]
    row = inference_row(case["prompt"], tokenizer, RECORDED["image_length"])
    assert row.input_ids == case["input_ids"]
    assert row.vision_expert_mask == _numbers(case["vision_expert_mask"])
    assert row.position_ids == _numbers(case["position_ids"])


@pytest.mark.parametrize("case", SHOWN, ids=range(len(SHOWN)))
def test_answers_as_the_original_shows_them(case, tokenizer):
    assert answer_text(case["sequence"], tokenizer, case["version"], case["revision"]) == case["response"]


def test_pieces_of_texts(tokenizer):
    for text, pieces in RECORDED["pieces"].items():
        assert tokenizer.convert_ids_to_tokens(ids_of(text, tokenizer)) == pieces, text
