"""What models are asked equals what the originals' answer scripts ask, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.parity.golden_eval import GOLDEN, LLAVA, QIHOO, lines, read

from beholder.evaluation.files import Said
from beholder.evaluation.prompts import LETTER, LETTER_CHINESE
from beholder.evaluation.tasks import find_task
from beholder.evaluation.tasks.mmbench import key_of, rows
from beholder.evaluation.tasks.scienceqa import _row

ASKED = read(GOLDEN / "360vl" / "eval" / "prompts" / "expected_prompts.json")
MARKER = "<|reserved_special_token_44|>\n"
PROMPTS = QIHOO / "prompts"


@pytest.mark.parametrize("name", ["mme", "pope", "textvqa", "gqa_vqav2"])
def test_360vl_questions(name):
    task = find_task({"gqa_vqav2": "gqa"}.get(name, name))
    for case in ASKED[name]:
        text = case["question_line"]["text"]
        row = {
            "question": text.removesuffix("\nAnswer the question using a single word or phrase."),
            "text": text,
        }
        style = task.style("qh360vl")
        assert MARKER + style.text(row) == case["user_message"]
        assert style.max_tokens == case["generate"]["max_new_tokens"]


def test_360vl_refcoco(tmp_path):
    task = find_task("refcoco-val")
    (case,) = ASKED["refcoco"] if isinstance(ASKED["refcoco"], list) else [ASKED["refcoco"]]
    (row,) = task.rows(PROMPTS / "q_refcoco.jsonl")
    style = task.style("qh360vl")
    assert MARKER + style.text(row) == case["user_message"]
    assert style.max_tokens == case["generate"]["max_new_tokens"]
    assert row["id"] == str(case["answer_line"]["question_id"])


@pytest.mark.parametrize(
    ("name", "all_rounds", "ending"),
    [
        ("mmbench_en", False, LETTER),
        ("mmbench_en_all_rounds", True, LETTER),
        ("mmbench_cn", False, LETTER_CHINESE),
        ("mmbench_cn_all_rounds", True, LETTER_CHINESE),
    ],
)
def test_360vl_mmbench(name, all_rounds, ending):
    asked = rows(PROMPTS / "q_mmbench.tsv", all_rounds)
    task = find_task("mmbench-cn" if ending == LETTER_CHINESE else "mmbench")
    assert len(asked) == len(ASKED[name])
    for row, case in zip(asked, ASKED[name], strict=True):
        assert MARKER + task.style("qh360vl").text(row) == case["user_message"]
        line = case["answer_line"]
        assert row["question"] == line["prompt"]
        assert (row["options"], list(row["letters"])) == (line["options"], line["option_char"])
        assert row["id"] == key_of(Said(str(line["question_id"]), "", line))


def test_llava_mmbench():
    told = read(LLAVA / "generation" / "prompts.json")
    for name, all_rounds in (("model_vqa_mmbench_en", False), ("model_vqa_mmbench_all_rounds", True)):
        asked = rows(LLAVA / "generation" / "mmbench.tsv", all_rounds)
        for row, line in zip(asked, told[name]["answers"], strict=True):
            assert row["question"] == line["prompt"]
            assert (row["options"], list(row["letters"])) == (line["options"], line["option_char"])
    assert find_task("mmbench").max_tokens == told["model_vqa_mmbench_en"]["kwargs"]["max_new_tokens"]


def test_llava_scienceqa():
    told = read(LLAVA / "generation" / "prompts.json")["model_vqa_science_single_pred"]
    problems = {
        "4": {"question": "Which figure?", "choices": ["one", "two"], "hint": "", "image": None, "answer": 1},
        "5": {
            "question": "Which?",
            "choices": ["x", "y", "z"],
            "hint": "text",
            "image": "image.png",
            "answer": 0,
        },
        "6": {"question": "Which one?", "choices": ["x", "y"], "hint": "", "image": "image.png", "answer": 0},
    }
    task = find_task("scienceqa")
    for line in told["answers"]:
        name = line["question_id"]
        row = _row(name, problems[name])
        assert ("<image>\n" if row["image"] else "") + task.style("llava").text(row) == line["prompt"]
    assert task.max_tokens == told["kwargs"]["max_new_tokens"]


@pytest.mark.parametrize(
    ("name", "file"),
    [("pope", "pope/llava_pope_test.jsonl"), ("vizwiz", "vizwiz/llava_test.jsonl")],
)
def test_llava_question_lists_are_asked_as_they_stand(name, file):
    task, path = find_task(name), LLAVA / file
    asked = [task.style("llava").text(row) for row in task.rows(path)]
    assert asked == [line["text"] for line in lines(path)]
    assert task.max_tokens == 128


def test_llava_mme_is_asked_as_listed():
    task, folder = find_task("mme"), LLAVA / "mme"
    asked = {task.style("llava").text(row) for row in task.load(folder)}
    assert asked == {line["text"] for line in lines(folder / "llava_mme.jsonl")}


def test_cogvlm_asks_the_bare_question_in_its_own_template():
    style = find_task("gqa").style("cogvlm")
    assert (style.text({"question": "What is it?"}), style.template) == ("What is it?", "vqa")


def test_a_row_without_a_picture_is_asked_without_one(tmp_path: Path):
    task = find_task("scienceqa")
    row = {"question": "Which?\nA. x", "image": ""}
    (message,) = task.conversation(row, None)
    assert message.parts == ("Which?\nA. x" + LETTER,)
    (message,) = task.conversation(row, Image.new("RGB", (2, 2)))
    assert len(message.pictures) == 1
