"""SEED-Bench: questions with four options about pictures and about the middle frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import json_lines, read_json, read_json_lines
from beholder.evaluation.hub import copy_files, unpack
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.choices import option_lines, plain_letter
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import COGVLM_SHORT, LETTER, LOADER_TOKENS
from beholder.evaluation.published import LLAVA_DOCS, llava_zoo
from beholder.evaluation.task import Pair, Reply, Row, Scores, Task

LISTED = "llava-seed-bench.jsonl"  # where LLaVA put the pictures
KEYS = ("choice_a", "choice_b", "choice_c", "choice_d")
REPOSITORY = "AILab-CVC/SEED-Bench"
PICTURES = "SEED-Bench-image"
FRAMES = "SEED-Bench-video-image"


def rows(path: Path, only: str = "") -> list[Row]:
    """The official file; where LLaVA's list is beside it, its pictures (the frames of videos).

    `only` is a type of data, image or video; left out, both.
    """
    release = read_json(path)
    kinds = {number: name for name, number in release["question_type"].items()}
    listed = path.parent / LISTED
    pictures = {
        str(line["question_id"]): line["image"]
        for line in (read_json_lines(listed) if listed.exists() else ())
    }
    return [
        {
            "id": str(one["question_id"]),
            "question_id": one["question_id"],
            "image": pictures.get(str(one["question_id"]), f"{PICTURES}/{one['data_id']}"),
            "question": one["question"] + option_lines([one[key] for key in KEYS]),
            "answer": one["answer"],
            "type": one["question_type_id"],
            "kind": kinds[one["question_type_id"]],
            "data": one["data_type"],
        }
        for one in release["questions"]
        if not only or one["data_type"] == only
    ]


def fetch(data: Path) -> None:
    """The questions of the hub's data set."""
    copy_files(REPOSITORY, ["SEED-Bench.json"], data)


def fetch_pictures(data: Path) -> None:
    """The pictures of the hub's data set, unless pictures are there or LLaVA's list says where they are."""
    if not (data / LISTED).exists():
        unpack(REPOSITORY, f"{PICTURES}.zip", data / PICTURES)


def need_frames(data: Path) -> None:
    """The frames of videos are nowhere published as pictures, so nothing can fetch them."""
    if not (data / LISTED).exists() or not (data / FRAMES).is_dir():
        raise InputError(
            f"{data} has no {LISTED} with {FRAMES}: the videos of SEED-Bench are not published as the frames "
            f"that are asked about; make them as {LLAVA_DOCS} tells and give the folder with --data, or ask "
            "seed-image, which the hub has"
        )


def score(reply: Reply, row: Row) -> Scores:
    """Right if the answer is the letter and nothing else."""
    return _told(reply.text, row)


def strict(reply: Reply, row: Row) -> Scores:
    """Right if the answer chooses the letter in any of the usual forms."""
    return _told(plain_letter(reply.text, "ABCD"), row)


def _told(letter: str | None, row: Row) -> Scores:
    told = {key: row[key] for key in ("type", "kind", "data", "image")}
    return {"right": letter == row["answer"], "expected": row["answer"], **told}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all, over pictures and videos, and for each type of question."""

    def accuracy(chosen: Sequence[Scores]) -> Interval:
        return mean((one["right"] for one in chosen), [one["image"] for one in chosen])

    figures = {"accuracy": accuracy(scores)}
    for data in ("image", "video"):
        if chosen := [one for one in scores if one["data"] == data]:
            figures[data] = accuracy(chosen)
    for kind in dict.fromkeys(one["kind"] for one in sorted(scores, key=lambda one: one["type"])):
        figures[kind] = accuracy([one for one in scores if one["kind"] == kind])
    return figures


def upload(pairs: Sequence[Pair], data: Path) -> dict[str, bytes]:
    """One line for each question in the order of the release: scripts/convert_seed_for_submission.py."""
    return {
        "seed_upload.jsonl": json_lines(
            {"question_id": row["question_id"], "prediction": reply.text} for row, reply in pairs
        )
    }


SEED = Task(
    name="seed",
    version=1,
    protocol="LLaVA model_vqa_loader + convert_seed_for_submission @ c121f04; the bare letter only",
    source="SEED-Bench.json",
    rows=rows,
    score=score,
    strict=strict,
    quirks={
        "bare-letter": "'A.' is not A",
        "missing-is-wrong": "a question without an answer counts as wrong",
        "all-wrong-stops": "a kind whose every answer is wrong ends the original with an error; here it is 0",
    },
    summary=summary,
    prompt="{question}" + LETTER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(missing="empty"),
    submit=upload,
    published=(llava_zoo(58.6, 61.6),),
    fetch=fetch,
    fetch_pictures=need_frames,
)
# The questions about pictures alone, which need no frames of videos.
SEED_IMAGE = replace(
    SEED,
    name="seed-image",
    rows=partial(rows, only="image"),
    submit=None,
    published=(),
    fetch_pictures=fetch_pictures,
)
