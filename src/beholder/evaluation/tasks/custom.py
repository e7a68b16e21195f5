"""A benchmark of one's own: one JSONL file with image, question and either answer(s), options or a box.

{"image": "a.jpg", "question": "What colour is it?", "answer": "red"}
{"image": "a.jpg", "question": "What is it?", "options": ["a cat", "a dog"], "answer": "B"}
{"image": "a.jpg", "question": "Where is the cat?", "box": [10, 20, 110, 220]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import read_json_lines
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.choices import LETTERS, inferred_letter, option_lines, plain_letter
from beholder.evaluation.metrics.region import HIT, overlap
from beholder.evaluation.metrics.words import normal_form
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import LETTER, SHORT
from beholder.evaluation.task import PLAIN, Reply, Row, Scores, Style, Task

KNOWN = {"id", "image", "question", "answer", "answers", "options", "box", "category", "prompt"}


def rows(path: Path) -> list[Row]:
    """The lines of the file; an id is the line's number where none is given."""
    return [_row(line, number, path) for number, line in enumerate(read_json_lines(path), 1)]


def _row(line: Mapping[str, Any], number: int, path: Path) -> Row:
    if unknown := sorted(line.keys() - KNOWN):
        raise InputError(f"{path}, line {number}: unknown {unknown}; known: {', '.join(sorted(KNOWN))}")
    if "question" not in line or not line.keys() & {"answer", "answers", "box"}:
        raise InputError(f"{path}, line {number} needs a question and one of answer, answers or box")
    options: list[str] = line.get("options", [])
    answers: list[str] = [
        str(one) for one in line.get("answers", [line["answer"]] if "answer" in line else [])
    ]
    if options:
        letter = _letter(answers, options)
        if letter is None:
            raise InputError(
                f"{path}, line {number}: the answer {answers} is none of the options or their letters"
            )
        answers = [letter]
    ending = LETTER if options else "" if "box" in line else SHORT
    return {
        "id": str(line.get("id", number)),
        "image": line.get("image", ""),
        "question": line["question"] + option_lines(options),
        "ending": line.get("prompt", ending),
        "own_ending": line.get("prompt", ""),
        "options": options,
        "answers": answers,
        "box": line.get("box"),
        "category": line.get("category", ""),
    }


def _letter(answers: Sequence[str], options: Sequence[str]) -> str | None:
    """The letter of the right option, named by its letter or by its text."""
    letters = LETTERS[: len(options)]
    for answer in answers:
        if answer in options:
            return letters[options.index(answer)]
        if len(answer) == 1 and answer in letters:
            return answer
    return None


def score(reply: Reply, row: Row) -> Scores:
    """Letters, boxes at IoU 0.5, or equal answers in the TextVQA evaluator's normal form."""
    told: dict[str, Any] = {"category": row["category"], "image": row["image"]}
    if row["box"]:
        box = reply.boxes[0] if reply.boxes else None
        iou = overlap((box.x1, box.y1, box.x2, box.y2), row["box"]) if box else 0.0
        return told | {"iou": iou, "right": iou >= HIT, "expected": row["box"]}
    if row["options"]:
        options = dict(zip(LETTERS, row["options"], strict=False))
        letter = plain_letter(reply.text, list(options)) or inferred_letter(reply.text, options)
        return told | {"letter": letter, "right": letter == row["answers"][0], "expected": row["answers"][0]}
    right = normal_form(reply.text) in {normal_form(answer) for answer in row["answers"]}
    return told | {"right": right, "expected": row["answers"]}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all rows and for each category."""

    def accuracy(chosen: Sequence[Scores]) -> Interval:
        return mean(
            (one["right"] for one in chosen), [one["image"] or number for number, one in enumerate(chosen)]
        )

    figures = {"accuracy": accuracy(scores)}
    for category in sorted({one["category"] for one in scores} - {""}):
        figures[f"category: {category}"] = accuracy([one for one in scores if one["category"] == category])
    return figures


def custom_task(path: Path) -> Task:
    """The benchmark that a file holds; pictures are looked for from the file's folder."""
    if not path.exists():
        raise InputError(f"there is no file {path}")
    return Task(
        name=path.stem,
        version=1,
        protocol="letters, boxes at IoU 0.5, or equal answers in normal form",
        source=path.name,
        rows=rows,
        score=score,
        summary=summary,
        prompt="{question}{ending}",
        max_tokens=64,
        styles={PLAIN: Style(prompt="{question}{own_ending}", max_tokens=64)},
        pair=by_row(),
        reads_boxes=True,
        home=path.parent,
    )
