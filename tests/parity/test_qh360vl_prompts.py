"""360VL's prompts against the messages that the original's scripts were seen to send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from beholder.core.types import Message
from beholder.families.qh360vl.processing import QH360VLProcessor
from beholder.families.qh360vl.templates import PICTURE_TOKEN, PUBLISHED_SYSTEM_PROMPT, Llama3Template
from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.processing.templates import rendered_text

GOLDEN = Path(__file__).parent.parent / "golden" / "360vl"
RECORDED: dict[str, Any] = json.loads((GOLDEN / "eval/prompts/expected_prompts.json").read_text())
# The stock Llama-3 chat format, through which the scripts send their messages.
LLAMA3_JINJA = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PICTURE = Image.new("RGB", (8, 8))
SLOTS = 3


def recorded_messages() -> dict[str, list[dict[str, str]]]:
    """Every conversation that was recorded with the placeholder token, by where it came from."""
    single = {
        f"{script}-{number}": [{"role": "user", "content": row["user_message"]}]
        for script, rows in RECORDED.items()
        if isinstance(rows, list) and rows and isinstance(rows[0], dict) and "user_message" in rows[0]
        for number, row in enumerate(rows)
    }
    mmmu = [{"role": "user", "content": RECORDED["mmmu"]["user_message"]}]
    rounds = {name: RECORDED[name]["messages_without_system"] for name in ("cli_round_1", "cli_round_2")}
    return {**single, "mmmu": mmmu, **rounds}


def ours(message: dict[str, str]) -> Message:
    """A recorded message as a user of ours would write it: no marker in the text."""
    text = message["content"].removeprefix(f"{PICTURE_TOKEN}\n")
    parts = (text,) if text == message["content"] else (PICTURE, text)
    return Message(message["role"], parts)  # type: ignore[arg-type]


def test_system_prompt():
    assert RECORDED["system_prompt"] == PUBLISHED_SYSTEM_PROMPT


def test_enough_was_recorded():
    assert len(recorded_messages()) >= 20


@pytest.mark.parametrize("case", recorded_messages())
def test_prompt_text_and_ids(case: str, llama3_tokenizer: PreTrainedTokenizerFast):
    recorded = recorded_messages()[case]
    assert any(PICTURE_TOKEN in message["content"] for message in recorded)
    expected = llama3_tokenizer.apply_chat_template(
        [{"role": "system", "content": RECORDED["system_prompt"]}, *recorded],
        chat_template=LLAMA3_JINJA,
        add_generation_prompt=True,
        tokenize=False,
    )
    processor = QH360VLProcessor(QH360VLImageProcessor(side=4), llama3_tokenizer, slots_per_picture=SLOTS)
    messages = [ours(message) for message in recorded]
    segments = processor.template.render(messages, add_generation_prompt=True)
    assert rendered_text(segments, PICTURE_TOKEN) == expected

    ids = llama3_tokenizer(expected, add_special_tokens=False)["input_ids"]
    place = ids.index(processor.image_token_id)
    ids[place : place + 1] = [processor.image_token_id] * SLOTS
    assert processor.encode(messages)["input_ids"].tolist() == [ids]


def test_web_page_prompt():
    """The web page builds the text by hand; its marker is the word `<image>`."""
    messages = [Message.user(PICTURE, "Describe it."), Message.assistant("A card."), Message.user("More?")]
    segments = Llama3Template().render(messages, add_generation_prompt=True)
    text = rendered_text(segments, "<image>")
    system, rest = RECORDED["web_system"], RECORDED["web_prompt_after_system"]
    # The two were recorded as parts; what the page writes between them was not.
    assert text == f"{system}<|eot_id|>{rest}"
