"""POPE: is an object in the picture? Three ways of choosing objects that are not there."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import Array, figure
from beholder.evaluation.files import Said, read_json_lines
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.yes_no import (
    CONFUSION_FIGURES,
    confusion,
    f1,
    first_word,
    pope_reading,
    scores_of,
)
from beholder.evaluation.pairing import reply_of
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, SHORT, SHORT_ANSWER, as_yes_or_no
from beholder.evaluation.published import LLAVA_DOCS, cogvlm, zoo
from beholder.evaluation.task import Pair, Reply, Row, Scores, Style, Task

log = logging.getLogger("beholder")


def rows(path: Path) -> list[Row]:
    """LLaVA's question list, with the label that stands at the same place in the category's own file."""
    labels = {
        file.stem.removeprefix("coco_pope_"): iter(read_json_lines(file))
        for file in sorted((path.parent / "coco").glob("coco_pope_*.json"))
    }
    found: list[Row] = []
    for line in read_json_lines(path):
        label = next(labels.get(line["category"], iter(())), None)
        if label is None:
            raise InputError(
                f"{path.parent}/coco has too few labels for category {line['category']!r} of {path}"
            )
        found.append(
            {
                "id": str(line["question_id"]),
                "image": f"val2014/{line['image']}",
                "question": line["text"].removesuffix(SHORT),
                "category": line["category"],
                # Whatever is not "no" is yes to the original.
                "label": "no" if label["label"] == "no" else "yes",
            }
        )
    return found


def by_order(answers: Sequence[Said], rows: Sequence[Row]) -> list[Pair]:
    """The first answer of a category meets its first label, and so on, whatever the ids are.

    From llava/eval/eval_pope.py (c121f04): the id of an answer tells only its category, and labels left over
    do not count.
    """
    category_of = {row["id"]: row["category"] for row in rows}
    waiting: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        waiting[row["category"]].append(row)
    pairs: list[Pair] = []
    for said in answers:
        category = category_of.get(said.id)
        if category is None:
            raise InputError(f"the answer to {said.id!r} belongs to no question of the list")
        if not waiting[category]:
            raise InputError(f"category {category!r} has more answers than labels")
        pairs.append((waiting[category].pop(0), reply_of(said)))
    left = {category: len(rest) for category, rest in waiting.items() if rest}
    if left:
        told = ", ".join(f"{count} of {category}" for category, count in left.items())
        log.warning(
            "answers are missing (%s); as they meet labels by their order, every label behind a missing one "
            "met the wrong answer, and the last ones do not count", told,
        )  # fmt: skip
    if not pairs:
        raise InputError("there is no answer to score")
    return pairs


def score(reply: Reply, row: Row) -> Scores:
    """The answer as the original reads it, and the label."""
    return scores_of(pope_reading(reply.text), row["label"], category=row["category"], image=row["image"])


def strict(reply: Reply, row: Row) -> Scores:
    """The first word decides; what begins with neither yes nor no is wrong."""
    return scores_of(first_word(reply.text), row["label"], category=row["category"], image=row["image"])


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """F1 and the rest for each category; the figure that is published is the mean of the three F1."""
    categories = sorted({one["category"] for one in scores})
    figures: dict[str, Interval] = {}
    # One row of sums for each picture: the four counts of every category, side by side.
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * 4 * len(categories))
    for one in scores:
        start = 4 * categories.index(one["category"])
        for place, count in enumerate(confusion(one["said"], one["expected"])):
            sums[one["image"]][start + place] += count
    totals = list(sums.values())

    def mean_f1(table: Array) -> Array:
        return sum(
            (f1(table[..., 4 * i : 4 * i + 4]) for i in range(len(categories))), table[..., 0] * 0
        ) / len(categories)

    figures["f1_mean"] = figure(totals, mean_f1, len(scores))
    for number, category in enumerate(categories):
        part: list[Any] = [row[4 * number : 4 * number + 4] for row in totals]
        kept = [row for row in part if any(row)]
        for name, formula in CONFUSION_FIGURES.items():
            figures[f"{name}.{category}"] = figure(kept, formula, int(sum(map(sum, kept))))
    for name, formula in CONFUSION_FIGURES.items():
        every: list[Any] = [[sum(row[place::4]) for place in range(4)] for row in totals]
        figures[name] = figure(every, formula, len(scores))
    return figures


POPE = Task(
    name="pope",
    version=2,
    protocol="LLaVA model_vqa_loader + eval_pope @ c121f04; mean F1 of adversarial, popular and random",
    source="llava_pope_test.jsonl",
    rows=rows,
    score=score,
    strict=strict,
    quirks={
        "no-among-words": "a word No, no or not before the first full stop is no; NO and Nope are yes",
        "by-order": "answers meet labels by their order within a category, not by id; labels left over do "
        "not count",
        "else-yes": "a label that is not exactly no is yes",
    },
    summary=summary,
    prompt=SHORT_ANSWER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT | {"qh360vl": Style(prompt=as_yes_or_no, max_tokens=1280)},
    pair=by_order,
    headline="f1_mean",
    origin=f"the list is in the eval.zip of {LLAVA_DOCS}, the labels are in output/coco of "
    "https://github.com/AoiDragon/POPE, the pictures on https://cocodataset.org",
    published=(zoo(85.9, 85.9, 86.4, 87.1, 87.2), cogvlm(87.6, figure="f1.adversarial")),
)
