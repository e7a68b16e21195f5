"""TDIUC: twelve kinds of question, scored kind by kind so that frequent ones do not decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beholder.evaluation.bootstrap import Array, figure, mean, ratio
from beholder.evaluation.files import find_one, read_json
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.words import vqa_form
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, SHORT_ANSWER
from beholder.evaluation.task import Reply, Row, Scores, Task


def rows(path: Path) -> list[Row]:
    """The release's annotations (one answer each) with the questions beside them."""
    questions = {
        one["question_id"]: one
        for one in read_json(find_one(path.parent, "*OpenEnded_mscoco_val2014_questions.json"))["questions"]
    }
    return [
        {
            "id": str(one["question_id"]),
            "image": f"val2014/COCO_val2014_{one['image_id']:012d}.jpg",
            "question": questions[one["question_id"]]["question"],
            "answer": one["answers"][0]["answer"],
            "kind": one["question_type"],
        }
        for one in read_json(path)["annotations"]
    ]


def score(reply: Reply, row: Row) -> Scores:
    """Exact match as the release compares: the answer's text, brought to the VQA evaluator's form."""
    right = vqa_form(reply.text) == vqa_form(row["answer"])
    return {"right": right, "kind": row["kind"], "expected": row["answer"], "image": row["image"]}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy; its arithmetic and harmonic mean over kinds; and each kind."""
    kinds = sorted({one["kind"] for one in scores})
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 2 * len(kinds))
    for one in scores:
        place = 2 * kinds.index(one["kind"])
        table[one["image"]][place] += one["right"]
        table[one["image"]][place + 1] += 1

    def of_kinds(sums: Array) -> Array:
        return np.stack([ratio(sums[..., 2 * i], sums[..., 2 * i + 1]) for i in range(len(kinds))], axis=-1)

    def arithmetic(sums: Array) -> Array:
        return of_kinds(sums).mean(-1)

    def harmonic(sums: Array) -> Array:
        shares = of_kinds(sums)
        whole = (shares > 0).all(-1)
        return np.where(whole, len(kinds) / (1 / np.where(shares > 0, shares, 1)).sum(-1), 0.0)

    totals = list(table.values())
    figures = {"accuracy": mean((s["right"] for s in scores), [s["image"] for s in scores])}
    figures["arithmetic_mean"] = figure(totals, arithmetic, len(scores))
    figures["harmonic_mean"] = figure(totals, harmonic, len(scores))
    for kind in kinds:
        figures[kind] = mean(one["right"] for one in scores if one["kind"] == kind)
    return figures


TDIUC = Task(
    name="tdiuc",
    version=1,
    protocol="TDIUC: exact match, accuracy and mean per type (arithmetic, harmonic)",
    source="mscoco_val2014_annotations.json",
    rows=rows,
    score=score,
    summary=summary,
    prompt=SHORT_ANSWER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(),
    origin="it is on https://kushalkafle.com/projects/tdiuc.html, its pictures on https://cocodataset.org",
)
