"""The scoring rules of `worlds` on tricky answers, and its figures from known scores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Box
from beholder.evaluation.task import Reply, fingerprint
from beholder.evaluation.tasks import TASKS, find_task
from beholder.evaluation.tasks.worlds import WORLDS, overlap, read_rows, score, summary, yes_or_no


def row(kind: str, answer: str, truth: dict[str, Any], language: str = "en") -> dict[str, Any]:
    return {"kind": kind, "language": language, "image": "images/a.png", "answer": answer, "truth": truth}


def is_right(text: str, *row_parts: Any) -> bool:
    return score(Reply(text), row(*row_parts))["right"]


@pytest.mark.parametrize(
    ("text", "language", "meant"),
    [
        ("Yes.", "en", True),
        ("yes", "en", True),
        ("YES!", "en", True),
        ("Yes, there is a star.", "en", True),
        ("No, there is not", "en", False),
        ("no.", "en", False),
        ("There is no star.", "en", None),
        ("Not at all", "en", None),
        ("Yesterday", "en", None),
        ("Nothing", "en", None),
        ("", "en", None),
        ("...", "en", None),
        ("是。", "zh", True),
        ("有", "zh", True),
        ("对，是红色", "zh", True),
        ("没有。", "zh", False),
        ("不是", "zh", False),
        ("红色。", "zh", None),
        ("Yes.", "zh", None),
        ("", "zh", None),
    ],
)
def test_yes_and_no(text, language, meant):
    assert yes_or_no(text, language) is meant


@pytest.mark.parametrize("yes", [True, False])
def test_neither_yes_nor_no_is_wrong(yes):
    assert not is_right("Perhaps.", "exists", "Yes." if yes else "No.", {"yes": yes})
    assert is_right("Yes, it is." if yes else "No, it is not.", "relation", "Yes.", {"yes": yes})


@pytest.mark.parametrize(
    ("text", "right", "expected"),
    [
        ("Red", True, "Red."),
        ("red.", True, "Red."),
        ("RED!", True, "Red."),
        ("It is red.", False, "Red."),
        ("Dark red.", False, "Red."),
        ("Redd", False, "Red."),
        ("", False, "Red."),
        ("红色", True, "红色。"),
        ("红色。", True, "红色。"),
        ("红", False, "红色。"),
        ("Red.", False, "红色。"),
        ("3", True, "3"),
        ("3.", True, "3"),
        ("three", False, "3"),
        ("13", False, "3"),
        ("3 stars", False, "3"),
        ("the blue star", True, "The blue star."),
        ("blue star", False, "The blue star."),
    ],
)
def test_exact_but_for_case_and_end_marks(text, right, expected):
    assert is_right(text, "colour", expected, {"colour": "red"}) is right


@pytest.mark.parametrize(
    ("text", "right", "any_case"),
    [
        ("AB 12", True, True),
        ("ab 12", False, True),
        ("AB12", False, False),
        ("AB 12.", False, False),
        ("", False, False),
    ],
)
def test_reading_is_letter_by_letter(text, right, any_case):
    told = score(Reply(text), row("read", "AB 12", {"text": "AB 12"}))
    assert (told["right"], told["any_case"]) == (right, any_case)


TRUE_BOX = Box(10, 10, 30, 20)


@pytest.mark.parametrize(
    ("boxes", "iou"),
    [
        ((TRUE_BOX,), 1.0),
        ((Box(10, 10, 30, 30),), 0.5),
        ((Box(20, 10, 40, 20),), 1 / 3),
        ((Box(30, 10, 50, 20),), 0.0),
        ((Box(30, 20, 10, 10),), 0.0),
        ((Box(10, 10, 10, 20),), 0.0),
        ((), 0.0),
        ((TRUE_BOX, TRUE_BOX), 0.0),
    ],
    ids=["same", "half", "third", "beside", "corners swapped", "no area", "none", "two"],
)
def test_boxes(boxes, iou):
    told = score(Reply("text", boxes), row("where", "", {"box": [10, 10, 30, 20]}))
    assert told["iou"] == pytest.approx(iou)
    assert told["right"] is (iou >= 0.5)


def test_overlap_is_the_same_both_ways():
    other = Box(15, 5, 40, 18)
    assert overlap(TRUE_BOX, other) == overlap(other, TRUE_BOX) == pytest.approx(120 / (200 + 325 - 120))


def told(kind: str, language: str, scene: int, right: bool, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "language": language, "scene": scene, "right": right, **more}


def test_figures():
    scores = [told("count", "en", scene, scene < 9) for scene in range(10)]
    scores += [told("count", "zh", scene, scene < 6) for scene in range(10)]
    scores += [told("exists", "en", scene, True, yes_no=True) for scene in range(10)]
    scores += [told("relation", "en", 0, False, yes_no=True), told("relation", "en", 1, True)]
    scores += [told("where", "zh", 0, True, iou=0.8), told("where", "zh", 1, False, iou=0.2)]
    figures = summary(scores)
    assert figures["count"][0] == 0.75
    assert figures["count.en"][0] == 0.9
    assert figures["count.en-zh"][0] == pytest.approx(0.3)
    assert figures["yes_no"][0] == pytest.approx(10 / 11)
    assert figures["relation.en"][::3] == (0.5, 2)
    assert figures["where_iou"][0] == pytest.approx(0.5)
    assert figures["overall"].samples == len(scores)
    assert "read" not in figures
    assert "where.en-zh" not in figures


def test_rows_of_a_data_folder(tmp_path):
    rows = [
        row("count", "3", {"count": 3}),
        row("describe", "There are no objects.", {}),
        row("count", "3", {"count": 3}, "zh"),
    ]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    assert [found["id"] for found in read_rows(tmp_path / "questions.json")] == ["a/count/en", "a/count/zh"]
    (tmp_path / "questions.json").write_text(json.dumps([rows[0], rows[0]]))
    with pytest.raises(InputError, match="given more than once"):
        WORLDS.load(tmp_path)


def test_a_folder_without_questions(tmp_path):
    with pytest.raises(InputError, match=r"no questions\.json"):
        WORLDS.load(tmp_path)


def test_fingerprint_sees_every_truth():
    rows = [row("count", "3", {"count": 3})]
    assert fingerprint(rows) == fingerprint([dict(reversed(rows[0].items()))])
    assert fingerprint(rows) != fingerprint([rows[0] | {"truth": {"count": 4}}])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_found_by_its_name(name):
    assert find_task(name).name == name


def test_unknown_task():
    with pytest.raises(ConfigError, match="did you mean 'worlds'"):
        find_task("world")
    with pytest.raises(ConfigError, match="known: worlds, worlds-redrawn, captcha, vqav2"):
        find_task("zzzz")
