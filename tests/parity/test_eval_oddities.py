"""Oddities of the originals' scorers that their fixtures do not show, each worked out from its rule."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.parity.golden_eval import LLAVA, QIHOO, card, lines, read

from beholder.evaluation.metrics.region import any_part_hits
from beholder.evaluation.metrics.yes_no import mme_reading
from beholder.evaluation.prompts import SHORT
from beholder.evaluation.scoring import write_submission
from beholder.evaluation.task import Reply
from beholder.evaluation.tasks import find_task


def write_lines(path: Path, values: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def pope(tmp_path: Path, labels: list[str], said: list[str]) -> dict[str, float]:
    write_lines(tmp_path / "coco" / "coco_pope_random.json", [{"label": label} for label in labels])
    listed = [
        {"question_id": number, "image": f"{number}.jpg", "text": "Is it?", "category": "random"}
        for number in range(len(labels))
    ]
    write_lines(tmp_path / "llava_pope_test.jsonl", listed)
    told = [{"question_id": number, "text": text} for number, text in enumerate(said)]
    answers = write_lines(tmp_path / "answers.jsonl", told)
    return dict(card("pope", answers, tmp_path, tmp_path / "out").values)


def test_pope_labels_left_over_do_not_count(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        values = pope(tmp_path, ["yes", "no", "yes"], ["Yes", "No"])
    assert (values["accuracy.random"], values["accuracy.random.samples"]) == (1.0, 2)
    assert "answers are missing (1 of random)" in caplog.text


def test_pope_takes_any_other_label_for_yes(tmp_path):
    assert pope(tmp_path, ["Yes", "NO", "no"], ["Yes", "Yes", "No"])["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("\nyes", "other"),
        ("a\nno", "other"),
        ("No\tit is", "no"),
        ("YES!", "yes"),
        ("\r\nno", "other"),
        ("not", "no"),
    ],
)
def test_mme_sees_the_first_line_alone(text, reading):
    assert mme_reading(text) == reading


def mme(tmp_path: Path, order: list[tuple[str, int]], said: dict[tuple[str, int], str]) -> dict[str, float]:
    """Two pictures of one category with two questions each, answered in an order; all truths are yes, no."""
    folder = tmp_path / "MME_Benchmark_release_version" / "count"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(
            "First? Please answer yes or no.\tYes\nSecond? Please answer yes or no.\tNo\n"
        )
    told = [
        {
            "question_id": f"count/{name}.png",
            "prompt": ("First?", "Second?")[number] + SHORT,
            "text": said.get((name, number), ("Yes", "No")[number]),
        }
        for name, number in order
    ]
    answers = write_lines(tmp_path / "answers.jsonl", told)
    values = card("mme", answers, tmp_path, tmp_path / "out").values
    strict = card("mme", answers, tmp_path, tmp_path / "strict", strict=True).values
    return {"original": values["count"], "strict": strict["count"]}


def test_mme_pairs_what_follows_each_other(tmp_path):
    mixed = [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert mme(tmp_path, mixed, {("a", 0): "No"}) == {"original": 125.0, "strict": 125.0}


def test_mme_pairs_of_mixed_pictures_can_both_fail(tmp_path):
    mixed = [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    said = {("a", 0): "No", ("a", 1): "Yes"}  # both wrong answers about one picture
    assert mme(tmp_path, mixed, said) == {"original": 50.0, "strict": 100.0}


def test_mme_leaves_out_an_answer_with_a_tab(tmp_path):
    """The first line goes, so the next two make a pair and the last stands alone."""
    said = {("a", 0): "Yes\tindeed"}
    told = mme(tmp_path, [("a", 0), ("a", 1), ("b", 0), ("b", 1)], said)
    assert told == {"original": pytest.approx(150.0), "strict": 200.0}


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("[0.25, 0.25, 0.75, 0.75]", True),
        ("0.25, 0.25, 0.75, 0.75", True),
        ("(0.25, 0.25, 0.75, 0.75, 9, 9)", True),
        ("['0.25', '0.25', '0.75', '0.75']", False),
        ("[0.25, 0.25, 0.75, 0.75].", False),
        ("[0, 0, 1, 1]; [0.25, 0.25, 0.75, 0.75]; oh", True),
        ("oh; [0.25, 0.25, 0.75, 0.75]", False),
        ("[0.75, 0.75, 0.25, 0.25]", False),
        (f"[{'9' * 400}, 0, 1, 1]", False),
        ("[1e999, 0, 1, 1]", False),
        ("[True, None, 1, 1]", False),
    ],
)
def test_refcoco_literals(text, hits):
    assert any_part_hits(text, (25, 25, 75, 75), 100, 100) is hits


def test_textvqa_questions_that_people_asked_twice(tmp_path):
    answers = [["a"] * 10, ["b"] * 10]
    data = {"data": [{"image_id": "p", "question": "What?", "answers": told} for told in answers]}
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps(data))
    said = write_lines(
        tmp_path / "said.jsonl",
        [
            {"question_id": "p", "prompt": f"WHAT?{SHORT}", "text": text}
            for text in ("a", "b")
        ],
    )  # fmt: skip
    assert card("textvqa", said, tmp_path, tmp_path / "out").values["accuracy"] == 0.5
    assert [row["id"] for row in find_task("textvqa").load(tmp_path)] == ["p/what?", "p/what?#2"]


def test_mmmu_counts_the_answers_that_are_there(tmp_path):
    folder = QIHOO / "mmmu"
    told = read(folder / "predictions.json")
    kept = dict(list(told.items())[:3])
    (tmp_path / "some.json").write_text(json.dumps(kept))
    record = card("mmmu", tmp_path / "some.json", folder, tmp_path / "out")
    assert record.samples == 3


def test_vqav2_upload_takes_answers_beyond_test_dev(tmp_path):
    """The converter goes through the whole test list and knows nothing of the questions that were asked."""
    asked = [
        {
            "question_id": 1,
            "image": "a.jpg",
            "text": f"What?{SHORT}",
        }
    ]
    write_lines(tmp_path / "llava_vqav2_mscoco_test-dev2015.jsonl", asked)
    write_lines(tmp_path / "llava_vqav2_mscoco_test2015.jsonl", [{"question_id": n} for n in (2, 1, 3)])
    said = write_lines(
        tmp_path / "said.jsonl", [{"question_id": n, "text": f"The {n} dogs."} for n in (1, 2)]
    )
    card("vqav2", said, tmp_path, tmp_path / "out")
    uploaded = read(tmp_path / "out" / "vqav2_upload.json")
    assert uploaded == [
        {"question_id": 2, "answer": "2 dogs"},
        {"question_id": 1, "answer": "1 dogs"},
        {"question_id": 3, "answer": ""},
    ]


def test_scienceqa_knows_no_letter_behind_e():
    row = {"image": "", "choices": 7, "answer": 5}
    task = find_task("scienceqa")
    assert not task.score(Reply("The answer is F."), row)["right"]
    assert task.scorer(True)(Reply("F"), row)["right"]


def test_every_oddity_is_named():
    for name in ("pope", "mme", "textvqa", "scienceqa", "seed", "mmmu", "refcoco-val", "gqa", "vqav2-val"):
        task = find_task(name)
        assert task.quirks, name
        assert task.strict is not None, name
    assert "failed-count" in find_task("llava-bench").quirks


def test_uploads_of_a_model_s_run_are_those_of_its_answer_file(tmp_path):
    """A converter that goes through answers is given those of a run under the questions' own ids."""
    folder = LLAVA / "gqa"
    task = find_task("gqa")
    rows = task.load(folder)
    said = {line["question_id"]: line["text"] for line in lines(folder / "merge.jsonl")}
    pairs = [(row, Reply(said[row["id"]])) for row in rows]
    (path,) = write_submission(task, pairs, folder, tmp_path)
    balanced = {row["id"] for row in rows}
    converted = read(folder / "expected.json")["converted"]
    assert read(path) == [one for one in converted if one["questionId"] in balanced]
