"""TextVQA val 0.5.1 with OCR tokens in the prompt, scored by the M4C evaluator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import Said, read_json, read_json_lines
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.soft_score import textvqa_score
from beholder.evaluation.pairing import by_answer
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, SHORT
from beholder.evaluation.published import LLAVA_DOCS, zoo
from beholder.evaluation.task import Reply, Row, Scores, Style, Task

PROMPTS = "llava_textvqa_val_v051_ocr.jsonl"
OCR = "Reference OCR token: "
SHORT_FORM = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def rows(path: Path) -> list[Row]:
    """Questions and ten answers each; the prompts with OCR tokens from LLaVA's list where it is there."""
    listed = path.parent / PROMPTS
    prompts = {
        _key(line["question_id"], asked(line["text"])): line["text"]
        for line in (read_json_lines(listed) if listed.exists() else ())
    }
    found: list[Row] = []
    seen = Counter[str]()
    for one in read_json(path)["data"]:
        key = _key(one["image_id"], one["question"])
        seen[key] += 1
        found.append(
            {
                "id": key if seen[key] == 1 else f"{key}#{seen[key]}",  # people asked some questions twice
                "key": key,
                "image": f"train_images/{one['image_id']}.jpg",
                "question": one["question"],
                "text": prompts.get(key, one["question"] + SHORT),
                "answers": one["answers"],
            }
        )
    return found


def _key(image: str, question: str) -> str:
    return f"{image}/{question.lower()}"


def asked(prompt: str) -> str:
    """The question within a prompt, from its form (llava/eval/eval_textvqa.py, c121f04)."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: ") and (found := SHORT_FORM.search(prompt)):
        return found[1]
    if OCR in prompt and len(lines) == 3:
        return lines[1] if prompt.startswith(OCR.rstrip()) else lines[0]
    if len(lines) == 2:
        return lines[0]
    raise InputError(
        f"the question cannot be found in the prompt {prompt[:100]!r}; it has {len(lines)} lines"
    )


def key_of(said: Said) -> str:
    """An answer belongs to the row of its picture and question."""
    return _key(said.id, asked(said.prompt))


def score(reply: Reply, row: Row, strict: bool = False) -> dict[str, Any]:
    """The share of ten people who would agree."""
    value = textvqa_score(reply.text, row["answers"], strict)
    return {"value": value, "expected": row["answers"], "image": row["image"]}


def strict(reply: Reply, row: Row) -> dict[str, Any]:
    """The same with every full stop at the end of a word removed, however many there are."""
    return score(reply, row, strict=True)


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """The mean of the soft scores; questions about one picture belong together."""
    return {"accuracy": mean((one["value"] for one in scores), [one["image"] for one in scores])}


TEXTVQA = Task(
    name="textvqa",
    version=2,
    protocol="LLaVA model_vqa_loader + eval_textvqa @ c121f04; OCR tokens in the prompt",
    source="TextVQA_0.5.1_val.json",
    rows=rows,
    score=score,
    strict=strict,
    quirks={
        "32-stops": "at most 32 full stops are removed from an answer",
        "answers-count": "the mean is over answers: a question without one does not count",
        "last-annotation": "of a question asked twice about a picture the last annotation scores all answers",
    },
    summary=summary,
    prompt="{text}",
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT | {"qh360vl": Style(prompt="{text}", max_tokens=1280)},
    pair=by_answer(key_of, row_key=lambda row: row["key"]),
    origin=f"it is on https://textvqa.org/dataset/, {PROMPTS} in the eval.zip of {LLAVA_DOCS}",
    published=(zoo(58.2, 61.3, 57.0, 58.7, 64.8),),
)
