"""The built-in checkpoint as its files tell it to programs that know nothing of our processors."""

from __future__ import annotations

import json
from pathlib import Path

from beholder.core.records import hash_weights
from beholder.families import identify_folder
from beholder.mini import FOLDER
from beholder.training.publish import publish

GENERATION = "generation_config.json"


def test_generation_ends_at_every_token_that_ends_an_answer():
    processor = identify_folder(FOLDER).processor_class().from_pretrained(FOLDER)
    told = json.loads((FOLDER / GENERATION).read_text(encoding="utf-8"))
    assert told["eos_token_id"] == sorted(processor.terminators)
    assert len(told["eos_token_id"]) == 2
    assert told["pad_token_id"] == processor.padding_id


def test_published_again_it_is_the_same(tmp_path: Path):
    publish(FOLDER, tmp_path / "again")
    assert hash_weights(tmp_path / "again") == hash_weights(FOLDER)
    told, before = (
        json.loads((place / GENERATION).read_text(encoding="utf-8")) for place in (tmp_path / "again", FOLDER)
    )
    assert told | {"transformers_version": ""} == before | {"transformers_version": ""}
