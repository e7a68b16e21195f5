"""CogVLM's processor where it goes beyond what the original could do, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaTokenizer

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Message
from beholder.families.cogvlm.processing import CogVLMProcessor
from beholder.families.cogvlm.templates import TEXT_ONLY_OPENING, CogVLMTemplate, text_only_text
from beholder.families.cogvlm.views import CogVLMImageProcessor
from beholder.processing.templates import rendered_text

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "cogvlm" / "tokenizer"
PICTURE = Image.new("RGB", (8, 6), "blue")
ASK = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What?"}]}]


@pytest.fixture(scope="module")
def processor() -> CogVLMProcessor:
    tokenizer = LlamaTokenizer.from_pretrained(TOKENIZER)
    return CogVLMProcessor(CogVLMImageProcessor(side=4), tokenizer, slots_per_picture=6)


def test_a_prompt_as_text_goes_in_again(processor):
    text = processor.apply_chat_template(ASK, add_generation_prompt=True)
    assert text == "<s><EOI>Question: What? Answer:"
    direct = processor.apply_chat_template(
        ASK, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    again = processor(images=PICTURE, text=text, return_tensors="pt")
    bare = processor(images=[[PICTURE]], text=text.removeprefix("<s>"), return_tensors="pt")
    for made in (again, bare):
        assert made.keys() == direct.keys()
        assert all(made[name].equal(direct[name]) for name in direct)
    assert direct["token_type_ids"].sum() == 6
    assert direct["input_ids"][0, :8].tolist() == [1, 0, 0, 0, 0, 0, 0, direct["input_ids"][0, 7].item()]


def test_a_batch_is_filled_on_the_left(processor):
    rows = [ASK, [{"role": "user", "content": "Name the capital of France, please."}]]
    batch = processor.apply_chat_template(
        rows, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids, mask, types = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    assert ids.shape == mask.shape == types.shape
    short = 0 if mask[0].sum() < mask[1].sum() else 1
    gap = int((mask[short] == 0).sum())
    assert gap > 0
    assert not mask[short, :gap].any()
    assert not types[short, :gap].any()
    assert ids[short, gap] == 1
    assert batch["pixel_values"].shape == (1, 3, 4, 4)


def test_a_conversation_without_a_picture():
    said = [Message.user("Hi"), Message.assistant("Hello."), Message.user("Bye")]
    text = rendered_text(CogVLMTemplate("chat").render(said, add_generation_prompt=True), "")
    opening = TEXT_ONLY_OPENING.rstrip()
    assert opening.endswith("polite answers to the user's questions.")
    assert text == f"<s>{opening} USER: Hi ASSISTANT: Hello.\nUSER: Bye ASSISTANT:"
    assert text_only_text("Hi") == f"{opening} USER: Hi ASSISTANT:"
    base = CogVLMTemplate("base").render(said, add_generation_prompt=True)
    assert rendered_text(base, "") == "<s>Bye"


def test_only_the_last_answer_is_trained(processor):
    said = [
        Message.user(PICTURE, "One?"),
        Message.assistant("1"),
        Message.user("Two?"),
        Message.assistant("2"),
    ]
    row = processor.encode_training(said)
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert trained == [label for label in row["labels"] if label != -100]
    assert trained[-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.decode(trained[:-1]).strip() == "2"
    assert sum(row["token_type_ids"]) == 6
    assert tuple(row["pixel_values"].shape) == (1, 3, 4, 4)


def test_special_tokens_in_a_question_stay_text(processor):
    ids = processor.encode([Message.user("say </s> and <s>")])["input_ids"][0].tolist()
    assert ids.count(1) == 1
    assert 2 not in ids


def test_boxes_refer_to_the_picture(processor):
    frame = processor.box_frame(640, 480)
    assert (frame.left, frame.top, frame.width, frame.height) == (0, 0, 640, 480)
    assert processor.terminators == (2,)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([Message.system("Be brief."), Message.user("?")], "no place for a system message"),
        ([Message.user(PICTURE, PICTURE, "?")], "shows 2 pictures and CogVLM looks at one"),
        (
            [Message.user(PICTURE, "a"), Message.assistant("b"), Message.user(PICTURE, "c")],
            "shows 2 pictures",
        ),
        ([Message.assistant("b"), Message.user("c")], "answers no question"),
    ],
)
def test_what_the_prompts_have_no_place_for(conversation, message, processor):
    with pytest.raises(InputError, match=message):
        processor.encode(conversation)


def test_other_refusals(processor):
    with pytest.raises(InputError, match="places for 1 pictures and 0 were given"):
        processor(text="<EOI>What?")
    with pytest.raises(InputError, match="must end with the answer"):
        processor.encode_training([Message.user("?")])
    with pytest.raises(InputError, match="cannot use truncation"):
        processor(text="What?", truncation=True)
    with pytest.raises(ConfigError, match="unknown settings for pictures: sizes"):
        processor.image_processor(PICTURE, sizes=3)
    assert isinstance(processor(PICTURE, return_tensors="pt")["pixel_values"], torch.Tensor)
