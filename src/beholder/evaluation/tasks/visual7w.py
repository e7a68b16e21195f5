"""Visual7W: pointing (which of four boxes, answered with a box) and telling (which of four answers)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import read_json
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.choices import inferred_letter, option_lines, plain_letter
from beholder.evaluation.metrics.region import overlap
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import LETTER, LOADER_TOKENS, REGION
from beholder.evaluation.task import Reply, Row, Scores, Style, Task

ORIGIN = "it is on https://ai.stanford.edu/~yukez/visual7w/"
ANSWERS_FIRST = "ABCD"


def pointing_rows(path: Path) -> list[Row]:
    """dataset_v7w_pointing.json: boxes by id, and questions whose candidates are four of them."""
    told = read_json(path)
    corners = {
        box["box_id"]: [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        for box in told["boxes"]
    }
    return [
        {
            "id": str(pair["qa_id"]),
            "image": f"images/{image['filename']}",
            "question": pair["question"],
            "truth": corners[pair["answer"]],
            "others": [corners[name] for name in pair["multiple_choices"]],
        }
        for image in told["images"]
        if image["split"] == "test"
        for pair in image["qa_pairs"]
    ]


def pointing_score(reply: Reply, row: Row) -> Scores:
    """Right if of all candidates the true one overlaps most with the first box of the answer."""
    told: dict[str, Any] = {"expected": row["truth"], "image": row["image"]}
    if not reply.boxes:
        return told | {"right": False, "has_box": False}
    box = reply.boxes[0]
    said = (box.x1, box.y1, box.x2, box.y2)
    best = max(overlap(said, other) for other in row["others"])
    mine = overlap(said, row["truth"])
    return told | {"right": mine > 0 and mine >= best, "has_box": True}


def telling_rows(path: Path) -> list[Row]:
    """dataset_v7w_telling.json: the answer and three wrong ones; the question's id decides their order."""
    return [
        _telling_row(image, pair)
        for image in read_json(path)["images"]
        if image["split"] == "test"
        for pair in image["qa_pairs"]
    ]


def _telling_row(image: dict[str, Any], pair: dict[str, Any]) -> Row:
    place = pair["qa_id"] % 4
    options = list(pair["multiple_choices"])
    options.insert(place, pair["answer"])
    return {
        "id": str(pair["qa_id"]),
        "image": f"images/{image['filename']}",
        "question": pair["question"] + option_lines(options),
        "options": options,
        "answer": ANSWERS_FIRST[place],
        "kind": pair["type"],
    }


def telling_score(reply: Reply, row: Row) -> Scores:
    """Right if the answer chooses the option, by its letter or by its text."""
    options = dict(zip(ANSWERS_FIRST, row["options"], strict=True))
    letter = plain_letter(reply.text, ANSWERS_FIRST) or inferred_letter(reply.text, options)
    told = {"letter": letter, "expected": row["answer"], "kind": row["kind"], "image": row["image"]}
    return told | {"right": letter == row["answer"]}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all, and for each kind of question (what, where, when, who, why, how)."""

    def accuracy(chosen: Sequence[Scores]) -> Interval:
        return mean((one["right"] for one in chosen), [one["image"] for one in chosen])

    figures = {"accuracy": accuracy(scores)}
    for kind in sorted({one.get("kind", "") for one in scores} - {""}):
        figures[kind] = accuracy([one for one in scores if one["kind"] == kind])
    return figures


VISUAL7W = Task(
    name="visual7w",
    version=2,
    protocol="Visual7W pointing, test: the candidate that overlaps most with the answered box",
    source="dataset_v7w_pointing.json",
    rows=pointing_rows,
    score=pointing_score,
    summary=summary,
    prompt=REGION,
    max_tokens=LOADER_TOKENS,
    styles={
        "cogvlm": Style(
            prompt="{question} answer in [[x0,y0,x1,y1]] format.", max_tokens=LOADER_TOKENS, template="base"
        )
    },
    pair=by_row(),
    reads_boxes=True,
    origin=ORIGIN,
)
VISUAL7W_TELLING = Task(
    name="visual7w-telling",
    version=1,
    protocol="Visual7W telling, test: one of four answers",
    source="dataset_v7w_telling.json",
    rows=telling_rows,
    score=telling_score,
    summary=summary,
    prompt="{question}" + LETTER,
    max_tokens=LOADER_TOKENS,
    pair=by_row(),
    origin=ORIGIN,
)
