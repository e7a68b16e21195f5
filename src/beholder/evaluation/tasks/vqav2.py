"""VQAv2: test-dev, written for upload, and val, scored by the rules of the VQA evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import Said, find_one, json_text, read_json, read_json_lines
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.soft_score import vqa_score
from beholder.evaluation.metrics.words import normal_form
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, SHORT, SHORT_ANSWER
from beholder.evaluation.published import LLAVA_DOCS, zoo
from beholder.evaluation.task import Reply, Row, Scores, Task

FULL_LIST = "llava_vqav2_mscoco_test2015.jsonl"
UNANIMOUS = {"unanimous-as-is": "where all ten people agree nothing is normalised, upper case included"}


def test_rows(path: Path) -> list[Row]:
    """LLaVA's question list for test-dev (or the full test list); there is no truth in it."""
    return [
        {
            "id": str(line["question_id"]),
            "image": f"test2015/{line['image']}",
            "question": line["text"].removesuffix(SHORT),
        }
        for line in read_json_lines(path)
    ]


def upload_score(reply: Reply, row: Row) -> Scores:
    """What is uploaded; whether it is right only the server knows."""
    return {"upload": normal_form(reply.text)}


def no_figures(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Nothing can be said of answers without truth."""
    return {}


def upload(answers: Sequence[Said], data: Path) -> dict[str, bytes]:
    """One entry for each question of the whole test list; one without an answer is empty.

    From scripts/convert_vqav2_for_submission.py of LLaVA (c121f04).
    """
    said = {one.id: normal_form(one.text) for one in answers}
    questions = [line["question_id"] for line in read_json_lines(find_one(data, FULL_LIST))]
    return {
        "vqav2_upload.json": json_text(
            [{"question_id": name, "answer": said.get(str(name), "")} for name in questions]
        )
    }


def annotated_rows(path: Path) -> list[Row]:
    """Questions and ten answers each from the files of the VQA site."""
    answers = {one["question_id"]: one for one in read_json(path)["annotations"]}
    questions = read_json(find_one(path.parent, "*OpenEnded_mscoco_val2014_questions.json"))["questions"]
    return [
        {
            "id": str(one["question_id"]),
            "image": f"val2014/COCO_val2014_{one['image_id']:012d}.jpg",
            "question": one["question"],
            "answers": [answer["answer"] for answer in answers[one["question_id"]]["answers"]],
            "answer_type": answers[one["question_id"]].get("answer_type", "other"),
            "question_type": answers[one["question_id"]].get("question_type", "other"),
        }
        for one in questions
    ]


def soft_score(reply: Reply, row: Row, strict: bool = False) -> dict[str, Any]:
    """The share of people who would agree, as the VQA evaluator computes it."""
    value = vqa_score(reply.text, row["answers"], strict)
    return {"value": value, "answer_type": row.get("answer_type", "other"), "expected": row["answers"]}


def strict_soft_score(reply: Reply, row: Row) -> dict[str, Any]:
    """The same, normalised also where all people agree."""
    return soft_score(reply, row, strict=True)


def soft_summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all, and for each type of answer."""
    figures = {"accuracy": mean(one["value"] for one in scores)}
    for kind in sorted({one["answer_type"] for one in scores}):
        figures[f"answers: {kind}"] = mean(one["value"] for one in scores if one["answer_type"] == kind)
    return figures


VQAV2 = Task(
    name="vqav2",
    version=1,
    protocol="LLaVA model_vqa_loader + convert_vqav2_for_submission @ c121f04; scored by the EvalAI server",
    source=f"llava_vqav2_mscoco_test-dev2015.jsonl|{FULL_LIST}",
    rows=test_rows,
    score=upload_score,
    summary=no_figures,
    prompt=SHORT_ANSWER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(missing="empty"),
    skips_broken_lines=True,
    convert=upload,
    published=(zoo(78.5, 80.0, 79.3, 80.2, 82.0),),
    origin=f"the lists are in the eval.zip of {LLAVA_DOCS}, the pictures on https://cocodataset.org",
)
VQAV2_VAL = Task(
    name="vqav2-val",
    version=1,
    protocol="VQA evaluator (GT-Vision-Lab/VQA, vqaEval.py) on val2014",
    source="v2_mscoco_val2014_annotations.json",
    rows=annotated_rows,
    score=soft_score,
    strict=strict_soft_score,
    quirks=UNANIMOUS,
    summary=soft_summary,
    prompt=SHORT_ANSWER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(),
    origin="it is on https://visualqa.org/download.html",
)
