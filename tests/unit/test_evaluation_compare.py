"""Two runs beside each other, a run beside published figures, and the page about a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from beholder.core.errors import InputError
from beholder.core.records import RunRecord, capture
from beholder.evaluation.cards import flatten, table
from beholder.evaluation.compare import compare, compare_published, comparison_text, mcnemar
from beholder.evaluation.intervals import Interval
from beholder.evaluation.report import write_report


def run(folder: Path, values: dict[str, float | bool]) -> Path:
    folder.mkdir()
    key = {name: "right" if isinstance(value, bool) else "value" for name, value in values.items()}
    text = "".join(
        json.dumps({"id": name, "question": "q", "answer": "a", "scores": {key[name]: value}}) + "\n"
        for name, value in values.items()
    )
    (folder / "answers.jsonl").write_text(text)
    return folder


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == 2 / 2**5
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(5, 5) == 1
    assert mcnemar(5000, 5300) == pytest.approx(0.00322, rel=0.01), "thousands of rows take no time"


def test_rows_that_changed(tmp_path):
    before = {f"r{number}": number < 6 for number in range(10)}
    after = before | {"r0": False, "r6": True, "r7": True, "r8": True}
    told = compare(run(tmp_path / "a", before), run(tmp_path / "b", after))
    assert (told.first, told.second, told.test) == (0.6, 0.8, "McNemar, exact")
    assert (told.lost, told.won) == (("r0",), ("r6", "r7", "r8"))
    assert told.p_value == pytest.approx(2 * (1 + 4) / 2**4)
    assert told.difference.value == pytest.approx(0.2)
    assert told.difference.low < 0.2 < told.difference.high
    assert "lost 1: r0\nwon 3: r6, r7, r8" in comparison_text(told, "a", "b")


def test_soft_scores_are_tested_by_bootstrap(tmp_path):
    before = {f"r{number}": 0.3 for number in range(40)}
    better = dict.fromkeys(before, 0.6)
    told = compare(run(tmp_path / "a", before), run(tmp_path / "b", better))
    assert told.test == "paired bootstrap"
    assert told.p_value < 0.01
    same = compare(tmp_path / "a", tmp_path / "a")
    assert (same.p_value, same.difference.value) == (1, 0)


def test_runs_of_other_rows_are_refused(tmp_path):
    one, other = run(tmp_path / "a", {"x": True}), run(tmp_path / "b", {"y": True})
    with pytest.raises(InputError, match="hold different rows: 2"):
        compare(one, other)
    with pytest.raises(InputError, match="there is no"):
        compare(one, tmp_path / "c")


def test_runs_by_other_rules_or_about_other_questions_are_refused(tmp_path):
    one, other = run(tmp_path / "a", {"x": True}), run(tmp_path / "b", {"x": True})
    card("pope v1", "m", accuracy=1).write(one / "score.json")
    assert compare(one, other).rows == 1, "one without a card may be anything"
    card("pope v2", "m", accuracy=1).write(other / "score.json")
    with pytest.raises(InputError, match=r"is scored by pope v1 and .* by pope v2, so they do not compare"):
        compare(one, other)
    asked = card("pope v2", "m", accuracy=1)
    replace(asked, settings={**asked.settings, "data": "abc"}).write(one / "score.json")
    with pytest.raises(InputError, match="were asked other questions"):
        compare(one, other / "answers.jsonl")


def card(measure: str, subject: str, points: tuple[str, ...] = (), **figures: float) -> RunRecord:
    intervals = {name: Interval(value, value, value, 10) for name, value in figures.items()}
    return capture(
        subject=subject, measure=measure, values=flatten(intervals), samples=10,
        settings={"points": list(points)}, seconds=0,
    )  # fmt: skip


def test_beside_what_was_published():
    (told,) = compare_published(card("gqa v1", "models/llava-v1.5-7b", accuracy=0.6215))
    assert (told.theirs, told.is_within) == (62.0, True)
    assert "within tolerance 0.5" in str(told)
    (told,) = compare_published(
        card("mme v1", "x", ("*",), perception=1400.0, total=1700.0), "LLaVA-v1.5-13B"
    )
    assert (told.theirs, told.is_within) == (1531.3, False)
    assert "OUT OF tolerance" in str(told)
    (told,) = compare_published(card("mme v1", "360VL-8B", ("*",), perception=1400.0, total=1890.0))
    assert (told.figure, told.theirs, told.is_within) == ("total", 1899.1, True)
    assert compare_published(card("gqa v1", "another", accuracy=0.6)) == []
    with pytest.raises(InputError, match="nothing is published for 'another'"):
        compare_published(card("gqa v1", "x", accuracy=0.6), "another")


def test_points_are_printed_as_they_are():
    assert "1400.0 [1400.0, 1400.0]" in table(card("mme v1", "x", ("*",), perception=1400.0))
    text = table(card("gqa v1", "x", ("distribution",), accuracy=0.5, distribution=1.25))
    assert "50.0 [50.0, 50.0]" in text
    assert "1.2 [1.2, 1.2]" in text


def test_page_shows_wrong_answers_first_and_escapes(tmp_path):
    lines = [
        {"id": "1", "question": "q1", "answer": "good", "scores": {"right": True}},
        {
            "id": "2",
            "question": "<script>alert(1)</script>",
            "answer": "crooked",
            "scores": {"right": False, "expected": "x"},
        },
        {"id": "3", "question": "q3", "error": "no memory"},
    ]
    rows = {"1": {"image": "images/a b#1.png"}, "2": {"image": "data:image/png;base64,AAAA"}}
    (tmp_path / "out").mkdir()
    record = card("gqa v1", "x", accuracy=0.5)
    path = write_report(tmp_path / "out" / "report.html", lines, rows, tmp_path / "data", record)
    page = path.read_text()
    assert page.index("no memory") < page.index("crooked") < page.index("good")
    assert "<script>alert" not in page
    assert 'src="../data/images/a%20b%231.png"' in page
    assert 'src="data:image/png;base64,AAAA"' in page
    assert "gqa v1: x" in page
