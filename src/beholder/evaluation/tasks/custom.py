"""A benchmark of one's own: one JSONL file with image, question and either answer(s), options or a box.

{"image": "a.jpg", "question": "What colour is it?", "answer": "red"}
{"image": "a.jpg", "question": "What is it?", "options": ["a cat", "a dog"], "answer": "B"}
{"image": "a.jpg", "question": "Where is the cat?", "box": [10, 20, 110, 220]}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

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

CHINESE_MARKS = "。，！？；：、"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_short(value: object) -> bool:
    return isinstance(value, str | int | float)


def _is_list(value: object) -> bool:
    entries = cast("list[object]", value) if isinstance(value, list) else ()
    return len(entries) > 0 and all(map(_is_short, entries))


def _is_box(value: object) -> bool:
    if not isinstance(value, list):
        return False
    corners = cast("list[object]", value)
    return len(corners) == 4 and all(isinstance(one, int | float) for one in corners)


KNOWN: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "id": (_is_short, "a text or a number"),
    "image": (_is_text, "a text"),
    "question": (_is_text, "a text"),
    "answer": (_is_short, "a text or a number"),
    "answers": (_is_list, "a list of texts"),
    "options": (_is_list, "a list of texts"),
    "box": (_is_box, "a list of four numbers, the corners x1, y1, x2, y2 in pixels"),
    "category": (_is_text, "a text"),
    "prompt": (_is_text, "a text"),
}


def rows(path: Path) -> list[Row]:
    """The lines of the file; an id is the line's number where none is given."""
    return [_row(line, number, path) for number, line in enumerate(read_json_lines(path), 1)]


def _row(given: object, number: int, path: Path) -> Row:
    if not isinstance(given, dict):
        raise InputError(f"{path}, line {number} is a {type(given).__name__}; a line is one JSON object")
    line = {key: value for key, value in cast("dict[str, Any]", given).items() if value is not None}
    if unknown := sorted(line.keys() - KNOWN.keys()):
        raise InputError(f"{path}, line {number}: unknown {unknown}; known: {', '.join(sorted(KNOWN))}")
    if "question" not in line or not line.keys() & {"answer", "answers", "box"}:
        raise InputError(f"{path}, line {number} needs a question and one of answer, answers or box")
    for key, value in line.items():
        is_right, wanted = KNOWN[key]
        if not is_right(value):
            raise InputError(f"{path}, line {number}: {key} is {value!r}; it should be {wanted}")
    options = [str(one) for one in line.get("options", [])]
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
    right = _form(reply.text) in {_form(answer) for answer in row["answers"]}
    return told | {"right": right, "expected": row["answers"]}


def _form(answer: str) -> str:
    """The normal form, which knows no Chinese marks: at the end they go first, as its own do."""
    return normal_form(answer.strip().rstrip(CHINESE_MARKS))


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
        version=2,
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
