"""VizWiz: test, written for upload, and val, scored as VQA is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beholder.evaluation.files import json_text, read_json, read_json_lines
from beholder.evaluation.metrics.words import normal_form
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, MAY_BE_UNANSWERABLE, SHORT
from beholder.evaluation.published import LLAVA_DOCS, zoo
from beholder.evaluation.task import Pair, Row, Task
from beholder.evaluation.tasks.vqav2 import (
    UNANIMOUS,
    no_figures,
    soft_score,
    soft_summary,
    strict_soft_score,
    upload_score,
)

SITE = "https://vizwiz.org/tasks-and-datasets/vqa/"
ENDING = MAY_BE_UNANSWERABLE + SHORT


def test_rows(path: Path) -> list[Row]:
    """LLaVA's question list, in the order of the upload."""
    return [
        {
            "id": str(line["question_id"]),
            "image": f"test/{line['image']}",
            "file": line["image"],
            "question": line["text"].removesuffix(ENDING),
        }
        for line in read_json_lines(path)
    ]


def val_rows(path: Path) -> list[Row]:
    """The annotations of the VizWiz site; a picture has one question."""
    return [
        {
            "id": line["image"],
            "image": f"val/{line['image']}",
            "question": line["question"],
            "answers": [answer["answer"] for answer in line["answers"]],
            "answer_type": line.get("answer_type", "other"),
        }
        for line in read_json(path)
    ]


def upload(pairs: Sequence[Pair], data: Path) -> dict[str, bytes]:
    """Image and answer for every question, from scripts/convert_vizwiz_for_submission.py (c121f04)."""
    return {
        "vizwiz_upload.json": json_text(
            [{"image": row["file"], "answer": normal_form(reply.text)} for row, reply in pairs]
        )
    }


VIZWIZ = Task(
    name="vizwiz",
    version=1,
    protocol="LLaVA model_vqa_loader + convert_vizwiz_for_submission @ c121f04; scored by the EvalAI server",
    source="llava_test.jsonl",
    rows=test_rows,
    score=upload_score,
    summary=no_figures,
    prompt="{question}" + ENDING,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(),
    skips_broken_lines=True,
    submit=upload,
    published=(zoo(50.0, 53.6, 52.5, 54.6, 60.1),),
    origin=f"the list is in the eval.zip of {LLAVA_DOCS}, the pictures on {SITE}",
)
VIZWIZ_VAL = Task(
    name="vizwiz-val",
    version=1,
    protocol="VQA evaluator (GT-Vision-Lab/VQA, vqaEval.py) on VizWiz val",
    source="val.json",
    rows=val_rows,
    score=soft_score,
    strict=strict_soft_score,
    quirks=UNANIMOUS,
    summary=soft_summary,
    prompt="{question}" + ENDING,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(),
    origin=f"it is on {SITE}",
)
