"""Scores and conversions equal those of 360VL's scorers and of those that its scripts call."""

from __future__ import annotations

import json
import random

import pytest
from tests.parity.golden_eval import QIHOO, card, lines, read

from beholder.evaluation.metrics.choices import mmmu_letter
from beholder.evaluation.metrics.open_answers import meanings
from beholder.evaluation.metrics.reviews import read_pair
from beholder.evaluation.metrics.words import normal_form
from beholder.evaluation.metrics.yes_no import mme_reading, pope_reading
from beholder.evaluation.scoring import read_reviews
from beholder.evaluation.task import Reply
from beholder.evaluation.tasks import find_task
from beholder.evaluation.tasks.gqa import prediction
from beholder.evaluation.tasks.llava_bench import of_review, summary
from beholder.evaluation.tasks.mmmu import SEED, sample_row, score, settle

EXPECTED = read(QIHOO / "expected.json")


def test_refcoco(tmp_path):
    folder = QIHOO / "refcoco"
    record = card("refcoco-val", folder / "refcoco.json", folder, tmp_path)
    assert record.values["precision"] == pytest.approx(EXPECTED["refcoco"]["precision"], abs=1e-12)
    hits = {line["id"]: line["scores"]["right"] for line in lines(tmp_path / "answers.jsonl")}
    assert hits == {str(one["sent_id"]): one["hit"] for one in EXPECTED["refcoco"]["per_line"]}


def test_refcoco_answers_given_twice_count_twice(tmp_path):
    folder = QIHOO / "refcoco"
    text = (folder / "refcoco.json").read_text()
    twice = tmp_path / "twice.json"
    twice.write_text(text + text.splitlines()[0] + "\n")
    record = card("refcoco-val", twice, folder, tmp_path / "out")
    told = EXPECTED["refcoco"]
    assert record.values["precision"] == pytest.approx((told["tp"] + 1) / (told["tp"] + told["fp"] + 1))


def test_pope(tmp_path):
    folder = QIHOO / "pope"
    values = card("pope", folder / "answers.jsonl", folder, tmp_path).values
    for category, figures in EXPECTED["pope"]["categories"].items():
        for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert values[f"{name}.{category}"] == pytest.approx(figures[name], abs=1e-12), (category, name)
    assert values["f1_mean"] == pytest.approx(EXPECTED["pope"]["f1_mean"], abs=1e-12)


@pytest.mark.parametrize("case", EXPECTED["pope"]["answer_parsing"], ids=lambda case: repr(case["text"]))
def test_pope_reading(case):
    assert pope_reading(case["text"]) == case["parsed"]


def test_textvqa(tmp_path):
    folder, told = QIHOO / "textvqa", EXPECTED["textvqa"]
    values = card("textvqa", folder / "answers.jsonl", folder, tmp_path).values
    assert values["accuracy"] == pytest.approx(told["accuracy_exact"], abs=1e-12)
    per_item = [line["scores"]["value"] for line in lines(tmp_path / "answers.jsonl")]
    assert per_item == pytest.approx([one["score"] for one in told["per_item"]], abs=1e-12)
    assert [normal_form(one["in"]) for one in told["normalisation"]] == [
        o["out"] for o in told["normalisation"]
    ]


def test_mme(tmp_path):
    folder, told = QIHOO / "mme", EXPECTED["mme"]
    values = card("mme", folder / "answers.jsonl", folder, tmp_path).values
    assert {name: values[name] for name in told["tasks"]} == pytest.approx(told["tasks"], abs=1e-9)
    assert values["perception"] == pytest.approx(told["perception"], abs=1e-9)
    assert values["cognition"] == pytest.approx(told["cognition"], abs=1e-9)
    for path in (folder / "converted").iterdir():
        assert (tmp_path / "mme" / path.name).read_bytes() == path.read_bytes()
    assert [mme_reading(one["text"]) for one in told["answer_parsing"]] == [
        o["parsed"] for o in told["answer_parsing"]
    ]


def test_mmmu(tmp_path):
    folder, told = QIHOO / "mmmu", EXPECTED["mmmu"]
    values = card("mmmu", folder / "predictions.json", folder, tmp_path).values
    right = {line["id"]: line["scores"]["right"] for line in lines(tmp_path / "answers.jsonl")}
    assert right == told["per_sample_correct"]
    for name, figure in told["summary"].items():
        ours = "accuracy" if name == "Overall" else name.removeprefix("Overall-")
        if figure["num"]:
            assert round(values[ours], 3) == figure["acc"], name
            assert values[f"{ours}.samples"] == figure["num"]
        else:
            assert ours not in values


@pytest.mark.parametrize("case", EXPECTED["mmmu"]["multi_choice_parsing"], ids=lambda case: case["response"])
def test_mmmu_letters(case):
    assert mmmu_letter(case["response"], case["index2ans"]) == case["parsed"]


def test_mmmu_draws_are_made_in_order():
    row = {"id": "validation_Art_1", "has_options": True, "options": dict.fromkeys("ABCD", "x"), "truth": "B"}
    scores = [score(Reply("unreadable"), row) for _ in range(8)]
    drawn = EXPECTED["mmmu"]["python_random_seed42_choice_sequence_ABCD"]
    assert settle(scores) == [letter == "B" for letter in drawn]
    assert random.Random(SEED).choice("ABCD") == drawn[0]


def test_mmmu_open_answers():
    for case in EXPECTED["mmmu"]["open_parsing_sorted_as_str"]:
        assert sorted(map(str, meanings(case["in"]))) == case["parsed"]


@pytest.mark.parametrize("case", EXPECTED["mmmu"]["prompt_building"], ids=lambda case: case["sample"]["id"])
def test_mmmu_prompts(case):
    row = sample_row(case["sample"])
    assert row["question"] == case["final_input_prompt"]
    assert row["options"] == (case["index2ans"] or {})


def test_gqa_predictions():
    merged = lines(QIHOO / "convert" / "gqa_merge.jsonl")
    ours = [{"questionId": one["question_id"], "prediction": prediction(one["text"])} for one in merged]
    assert ours == EXPECTED["gqa_convert"]


def test_vqav2_upload(tmp_path):
    folder = QIHOO / "convert"
    data = tmp_path / "data"
    data.mkdir()
    listed = (folder / "vqav2_test2015.jsonl").read_text()
    (data / "llava_vqav2_mscoco_test2015.jsonl").write_text(listed)
    card("vqav2", folder / "vqav2_merge.jsonl", data, tmp_path / "out")
    assert (tmp_path / "out" / "vqav2_upload.json").read_text() == json.dumps(EXPECTED["vqav2_convert"])


def test_reviews():
    for case in EXPECTED["llavabench_parse_score"]:
        assert list(read_pair(case["review"]) or (-1, -1)) == case["scores"]
    reviews = read_reviews(QIHOO / "convert" / "llavabench_review.jsonl")
    figures = summary([of_review(one) for one in reviews])
    for category, triple in EXPECTED["llavabench_summary"].items():
        part = "" if category == "all" else f".{category}"
        assert [figures[f"{name}{part}"].value for name in ("relative", "reference", "ours")] == triple


def test_every_task_can_be_found():
    from beholder.evaluation.tasks import TASKS

    assert [find_task(name).name for name in TASKS] == list(TASKS)
