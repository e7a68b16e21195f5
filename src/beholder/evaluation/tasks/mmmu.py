"""MMMU val: college questions of thirty subjects, with options or free answers."""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import json_text, read_json, read_json_lines
from beholder.evaluation.hub import fetch_split
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.choices import LETTERS, mmmu_letter
from beholder.evaluation.metrics.open_answers import is_right
from beholder.evaluation.pairing import by_answer
from beholder.evaluation.prompts import LOADER_TOKENS, SHORT
from beholder.evaluation.published import qihoo
from beholder.evaluation.task import Pair, Reply, Row, Scores, Style, Task

SEED = 42  # of the original's random choices
LETTER_LINE = "\nAnswer with the option's letter from the given choices directly."
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics",
        "Energy_and_Power", "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip


def rows(path: Path) -> list[Row]:
    """The samples of the data set as JSON lines, or only the truths that its evaluation carries."""
    if path.suffix == ".jsonl":
        return [sample_row(sample) for sample in read_json_lines(path)]
    return [
        {
            "id": name,
            "image": "",
            "question": "",
            "options": {},
            "truth": one["ground_truth"],
            "has_options": one["question_type"] == "multiple-choice",
        }
        for name, one in read_json(path).items()
    ]


def sample_row(sample: Mapping[str, Any]) -> Row:
    """One sample of MMMU/MMMU; its options are a list written as text, its picture is the first."""
    texts: list[str] = (
        ast.literal_eval(sample["options"]) if isinstance(sample["options"], str) else sample["options"]
    )
    has_options = sample["question_type"] == "multiple-choice"
    options = dict(zip(LETTERS, texts, strict=False)) if has_options else {}
    lines = "".join(f"({letter}) {option}\n" for letter, option in options.items())
    return {
        "id": sample["id"],
        "image": sample.get("image_1") or "",
        "question": f"{sample['question']}\n{lines}{LETTER_LINE}"
        if has_options
        else sample["question"] + SHORT,
        "options": options,
        "truth": sample["answer"],
        "has_options": has_options,
    }


def fetch(data: Path) -> None:
    """The validation split of the hub's data set, all subjects, where no file of it is there yet."""
    fetch_split("MMMU/MMMU", "validation", data)


def score(reply: Reply, row: Row) -> Scores:
    """Whether the answer is right; where no option can be read, which letters the original draws from."""
    subject = row["id"].removeprefix("validation_").rsplit("_", 1)[0]
    told: dict[str, Any] = {"subject": subject, "expected": row["truth"]}
    if not row["has_options"]:
        return told | {"right": is_right(reply.text, row["truth"])}
    letter = mmmu_letter(reply.text, row["options"]) if row["options"] else reply.text
    drawn = {} if letter else {"drawn_from": list(row["options"])}
    return told | {"letter": letter, "right": letter is not None and letter in _true_letters(row), **drawn}


def _true_letters(row: Row) -> Sequence[str]:
    return _listed(row["truth"])


def _listed(truth: str | list[str]) -> list[str]:
    return truth if isinstance(truth, list) else [truth]


def strict(reply: Reply, row: Row) -> Scores:
    """The same without a draw: an answer in which no option can be read is wrong."""
    return {key: value for key, value in score(reply, row).items() if key != "drawn_from"}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all, domains and subjects, with the draws made in the order of the rows."""
    settled = settle(scores)

    def accuracy(subjects: Sequence[str]) -> Interval:
        return mean(right for one, right in zip(scores, settled, strict=True) if one["subject"] in subjects)

    present = {one["subject"] for one in scores}
    figures = {"accuracy": mean(settled)}
    for domain, subjects in DOMAINS.items():
        if found := [subject for subject in subjects if subject in present]:
            figures[domain] = accuracy(found)
            figures |= {subject: accuracy([subject]) for subject in found}
    return figures | {"drawn": mean("drawn_from" in one for one in scores)}


def settle(scores: Sequence[Scores]) -> list[bool]:
    """Right or wrong for each row, where the original's random choices are made again."""
    draw = random.Random(SEED)
    settled: list[bool] = []
    for one in scores:
        letters = one.get("drawn_from")
        truth = _listed(one["expected"])
        settled.append(draw.choice(letters) in truth if letters else one["right"])
    return settled


def upload(pairs: Sequence[Pair], data: Path) -> dict[str, bytes]:
    """Letter or free answer for every id, as the evaluation server takes it."""
    return {
        "mmmu_upload.json": json_text(
            {row["id"]: score(reply, row).get("letter", reply.text) or "" for row, reply in pairs}
        )
    }


MMMU = Task(
    name="mmmu",
    version=2,
    protocol="360VL model_vqa_mmmu @ ad6a11c; eval_mmmu of BAAI-DCAI/Bunny @ 08273ac",
    source="validation*.jsonl|answer_dict_val.json",
    rows=rows,
    score=score,
    strict=strict,
    quirks={
        "draws": "where no option can be read one is drawn at random (seed 42)",
        "answers-count": "the mean is over answers: a question without one does not count",
    },
    summary=summary,
    max_tokens=LOADER_TOKENS,
    styles={"cogvlm": Style(max_tokens=LOADER_TOKENS, template="vqa")},
    pair=by_answer(),
    submit=upload,
    published=(qihoo(39.7, 50.8, tolerance=1.0),),
    fetch=fetch,
)
