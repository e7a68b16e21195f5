"""ScienceQA test: questions with options, about half of them with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import find_one, read_json
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.choices import LETTERS, option_lines, plain_letter, scienceqa_letter
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import COGVLM_SHORT, LETTER, LONG_TOKENS
from beholder.evaluation.published import zoo
from beholder.evaluation.task import Reply, Row, Scores, Task

PLACEHOLDER = "<image>"
MOST_CHOICES = 5  # A to E; the original knows no other letter


def rows(path: Path) -> list[Row]:
    """The test split of the official files, asked as llava_test_CQM-A.json writes it."""
    problems: dict[str, dict[str, Any]] = read_json(path)
    chosen = read_json(find_one(path.parent, "pid_splits.json"))["test"]
    return [_row(name, problems[name]) for name in chosen]


def _row(name: str, problem: dict[str, Any]) -> Row:
    context = f"Context: {problem['hint']}\n" if problem["hint"] else ""
    return {
        "id": name,
        "image": f"images/test/{name}/{problem['image']}" if problem["image"] else "",
        "question": context + problem["question"] + option_lines(problem["choices"]),
        "choices": len(problem["choices"]),
        "answer": problem["answer"],
    }


def score(reply: Reply, row: Row) -> Scores:
    """The option that the original reads; a missing answer does not count among those with a picture."""
    has_picture = PLACEHOLDER in reply.prompt if reply.prompt else bool(row["image"]) and not reply.is_missing
    return _told(scienceqa_letter(reply.text), row, has_picture, MOST_CHOICES)


def strict(reply: Reply, row: Row) -> Scores:
    """A letter at the start in any of the usual forms; the picture counts by the question."""
    letters = LETTERS[: row["choices"]]
    return _told(plain_letter(reply.text, letters), row, bool(row["image"]), len(letters))


def _told(letter: str | None, row: Row, has_picture: bool, most: int) -> Scores:
    choice = LETTERS.index(letter) if letter else -1
    chosen = choice if choice < min(row["choices"], most) else -1
    told = {"letter": letter or "FAILED", "choice": chosen, "expected": LETTERS[row["answer"]]}
    return {"right": chosen == row["answer"], "has_picture": has_picture, **told}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all questions and over those with a picture, which is the figure that is published."""
    with_picture = [one["right"] for one in scores if one["has_picture"]]
    figures = {"accuracy": mean(one["right"] for one in scores)}
    return figures | ({"image_accuracy": mean(with_picture)} if with_picture else {})


SCIENCEQA = Task(
    name="scienceqa",
    version=2,
    protocol="LLaVA model_vqa_science --single-pred-prompt + eval_science_qa @ c121f04; the published "
    "figures were made with v1.1.1, which crops a picture to its middle instead of padding it",
    source="problems.json",
    rows=rows,
    score=score,
    strict=strict,
    quirks={
        "few-forms": "only a bare letter, a letter with '. ', or one 'The answer is X.' are read",
        "missing-without-picture": "a missing answer is wrong, but not among those with a picture",
    },
    summary=summary,
    prompt="{question}" + LETTER,
    max_tokens=LONG_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(missing="empty"),
    headline="image_accuracy",
    origin="it is in data/scienceqa of https://github.com/lupantech/ScienceQA",
    published=(zoo(66.8, 71.6, 66.2, 70.1, 71.6),),
)
