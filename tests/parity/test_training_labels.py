"""Labels of rows as files have them are the originals', through the whole path from row to sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.parity import golden_cogvlm
from tests.parity.golden_llava import PICTURE, tokenizer, told
from transformers import AutoTokenizer

from beholder.families.cogvlm.processing import CogVLMProcessor
from beholder.families.cogvlm.views import CogVLMImageProcessor
from beholder.families.llava.processing import LlavaProcessor
from beholder.families.llava.templates import END, START
from beholder.families.llava.views import LlavaImageProcessor
from beholder.training.data import Conversations
from beholder.training.sources import folder_rows
from beholder.training.stages import Source

NAMES = {"v1": "vicuna_v1"}
RECORDS = {
    "current": "tokenization/records.json",
    "release": "tokenization/records_transformers_4.31.0_v1.json",
}
# The original trains a newline that is nobody's answer, or reads </s> in an answer's text as the end token.
NOT_ALIKE = {"empty_assistant", "eos_in_answer"}


def conversations(record: dict[str, Any], generation: str, place: Path) -> Conversations:
    """The record as a data set of one row, with LLaVA's processor as its template asks."""
    added = (START, END) if record["mm_use_im_start_end"] else ()
    processor = LlavaProcessor(
        LlavaImageProcessor(side=8),
        tokenizer(*added),
        template_name=NAMES.get(record["template"], record["template"]),
        marking="legacy" if record["legacy"] else {"current": "current", "release": "stripped"}[generation],
        image_token_id=PICTURE,
        slots_per_picture=1,
        use_start_end=record["mm_use_im_start_end"],
    )
    turns = record["conversation"]
    turns = turns[1:] if turns[0]["from"] != "human" else turns
    row: dict[str, Any] = {"id": record["name"], "conversations": turns}
    pictures = sum(turn["value"].count("<image>") for turn in turns)
    if record["has_image"]:
        row["image"] = ["a.png"] * pictures
    return Conversations([([row], place)], processor)


@pytest.mark.parametrize("generation", RECORDS)
@pytest.mark.parametrize("template", ["v1", "plain", "llava_llama_2", "v1_mmtag"])
def test_llava(generation: str, template: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    records = [record for record in told(RECORDS[generation])["records"] if record["template"] == template]
    compared = 0
    for record in records:
        texts = [turn["value"] for turn in record["conversation"]]
        # The original makes one of several pictures in a turn; and reads <image> in the text of rows without.
        is_alike = all(text.count("<image>") <= 1 for text in texts) and (
            record["has_image"] or not any("<image>" in text for text in texts)
        )
        if record["printed"] or record["model_max_length"] != 2048 or not is_alike:
            continue
        if record["name"] in NOT_ALIKE:
            continue
        sample = conversations(record, generation, tmp_path)[0]
        assert sample["input_ids"] == record["input_ids"], record["name"]
        labels = [-100 if label == PICTURE else label for label in record["labels"]]
        assert sample["labels"] == labels, record["name"]
        compared += 1
    assert compared >= 2 or not records


def test_cogvlm_folder(tmp_path: Path) -> None:
    """The captcha example: the name of the file is the answer."""
    cases = [
        case
        for case in golden_cogvlm.told("tokenization")["sat_text_processor_train"]
        if case["version"] == "base" and case.get("result") and case["prompt"] == "CAPTCHA:"
    ]
    assert cases
    processor = CogVLMProcessor(
        CogVLMImageProcessor(side=4),
        AutoTokenizer.from_pretrained(golden_cogvlm.FOLDER / "tokenizer"),
        template="base",
        slots_per_picture=golden_cogvlm.told("tokenization")["vision_tokens"],
    )
    for number, case in enumerate(cases):
        place = tmp_path / str(number)
        place.mkdir()
        Image.new("RGB", (8, 8)).save(place / f"{case['caption']}.png")
        source = Source(rows=place, pictures=place, form="folder", prompt="CAPTCHA:")
        sample = Conversations([(list(folder_rows(source)), place)], processor)[0]
        length = len(sample["input_ids"])
        assert sample["input_ids"] == case["result"]["input_ids"][:length]
        assert sample["labels"] == case["result"]["labels"][:length]
        assert all(label == -100 for label in case["result"]["labels"][length:])
