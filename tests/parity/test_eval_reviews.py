"""GPT-assisted reviews: requests, readings and summaries as the originals', with a judge on loopback."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.openai_stand_in import stand_in
from tests.parity.golden_eval import LLAVA, lines, read

from beholder.core.errors import ConfigError
from beholder.evaluation.endpoint import Endpoint
from beholder.evaluation.judge import Judge
from beholder.evaluation.metrics.reviews import MMVET_INTRODUCTION, mmvet_question
from beholder.evaluation.scoring import RowsFailed, read_reviews, score_answers
from beholder.evaluation.tasks import find_task
from beholder.evaluation.tasks.llava_bench import of_review, summary

BENCHES = {"llava-bench": LLAVA / "llavabench", "llava-bench-coco": LLAVA / "gpt_review_visual"}


def data_of(name: str, tmp_path: Path) -> Path:
    """A folder as the benchmark's data are; the rules are the same for both."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in BENCHES[name].glob("*.json*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "rule.json").write_bytes((LLAVA / "llavabench" / "rule.json").read_bytes())
    return folder


def judge(url: str, tmp_path: Path) -> Judge:
    return Judge(Endpoint(url, tries=1), "gpt-4-0314", tmp_path / "judge")


@pytest.mark.parametrize("name", BENCHES)
def test_requests_and_summary(name, tmp_path):
    folder, expected = BENCHES[name], read(BENCHES[name] / "expected.json")
    canned = read(folder / "canned_reviews.json")
    data, turn = data_of(name, tmp_path), count()
    with stand_in(lambda request: canned[next(turn)]) as server:
        record = score_answers(
            find_task(name),
            folder / "answers.jsonl",
            data,
            tmp_path / "out",
            judge=judge(server.url, tmp_path),
        )
        assert server.requests == expected["api_calls"]
    reviewed = [line["scores"] for line in lines(tmp_path / "out" / "answers.jsonl")]
    assert [one["tuple"] for one in reviewed] == [one["tuple"] for one in expected["reviews"]]
    assert [one["category"] for one in reviewed] == [one["category"] for one in expected["reviews"]]
    for category, triple in expected["summary"].items():
        part = "" if category == "all" else f".{category}"
        assert [record.values[f"{figure}{part}"] for figure in ("relative", "reference", "ours")] == triple
    assert lines(tmp_path / "out" / "review.jsonl") == expected["reviews"]
    again = score_answers(find_task(name), tmp_path / "out" / "review.jsonl", data, tmp_path / "again")
    assert again.values == record.values
    assert record.settings["judge"] == ["gpt-4-0314-served"]
    assert len(record.settings["judged"]) == 1


def test_a_kept_reply_is_not_asked_again(tmp_path):
    data = data_of("llava-bench", tmp_path)
    task, answers = find_task("llava-bench"), data / "answers.jsonl"
    with stand_in(lambda request: "8 7\nfine") as server:
        first = score_answers(task, answers, data, tmp_path / "out", judge=judge(server.url, tmp_path))
        again = score_answers(task, answers, data, tmp_path / "out", judge=judge(server.url, tmp_path))
        assert len(server.requests) == 9
    assert first.values == again.values


def test_a_judge_that_fails_is_an_error_and_never_a_zero(tmp_path):
    data = data_of("llava-bench", tmp_path)
    task, answers, out = find_task("llava-bench"), data / "answers.jsonl", tmp_path / "out"
    turn = count()
    with stand_in(lambda request: 400 if next(turn) == 3 else "8 7\nfine") as server:
        with pytest.raises(RowsFailed, match="1 of 9 rows could not be scored"):
            score_answers(task, answers, data, out, judge=judge(server.url, tmp_path))
        assert not (out / "score.json").exists()
        told = lines(out / "answers.jsonl")
        assert [("scores" in line, "judge_error" in line) for line in told].count((False, True)) == 1
        record = score_answers(task, answers, data, out, judge=judge(server.url, tmp_path))
        assert len(server.requests) == 10, "only the failed row is asked again"
    assert record.values["relative"] == 87.5


def test_unread_reviews_can_be_left_out(tmp_path):
    data, folder = data_of("llava-bench", tmp_path), BENCHES["llava-bench"]
    canned, turn = read(folder / "canned_reviews.json"), count()
    with stand_in(lambda request: canned[next(turn)]) as server:
        record = score_answers(
            find_task("llava-bench"), folder / "answers.jsonl", data, tmp_path / "out",
            judge=judge(server.url, tmp_path), strict=True,
        )  # fmt: skip
    # Four of nine pairs cannot be read; the mean of the other five is 7.6 and 7.4.
    assert record.values["ours"] == 74.0
    assert record.values["relative"] == 97.4


def test_the_rules_of_the_judge_are_those_of_llava(tmp_path):
    """The data set of the hub has none, so what is built in must be what the file says."""
    data = data_of("llava-bench", tmp_path)
    before = find_task("llava-bench").load(data)
    (data / "rule.json").unlink()
    assert find_task("llava-bench").load(data) == before


def test_a_judge_who_took_no_part_is_not_in_the_card(tmp_path):
    asker = judge("http://127.0.0.1:9", tmp_path)
    folder = LLAVA / "pope"
    record = score_answers(find_task("pope"), folder / "answers.jsonl", folder, tmp_path / "a", judge=asker)
    reviews = LLAVA / "llavabench" / "review_alt.jsonl"
    data = data_of("llava-bench", tmp_path)
    again = score_answers(find_task("llava-bench"), reviews, data, tmp_path / "b", judge=asker)
    assert not {"judge", "judged"} & (record.settings.keys() | again.settings.keys())


def test_without_a_judge(tmp_path):
    folder = BENCHES["llava-bench"]
    with pytest.raises(ConfigError, match="--judge"):
        score_answers(find_task("llava-bench"), folder / "answers.jsonl", folder, tmp_path)


def test_older_reviews_and_ignored_questions():
    expected = read(LLAVA / "llavabench" / "expected.json")
    path = LLAVA / "llavabench" / "review_alt.jsonl"
    for key, ignored in (("summary_alt", ()), ("summary_alt_ignore_2", ("2",))):
        figures = summary([of_review(one) for one in read_reviews(path, ignored)])
        ours = [figures[name].value for name in ("relative", "reference", "ours")]
        assert ours == expected[key]["all"]


def mmvet_data(tmp_path: Path, answers: dict[str, str]) -> tuple[Path, Path]:
    told = {
        f"v1_{name}": {
            "imagename": "a.png",
            "question": f"q{name}?",
            "answer": "a<AND>b",
            "capability": ["rec"],
        }
        for name in answers
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps(told))
    file = tmp_path / "upload.json"
    file.write_text(json.dumps({f"v1_{name}": text for name, text in answers.items()}))
    lines_file = tmp_path / "answers.jsonl"
    lines_file.write_text(
        "".join(json.dumps({"question_id": n, "text": t}) + "\n" for n, t in answers.items())
    )
    return tmp_path, lines_file


def test_mmvet_asks_again_until_there_is_a_grade(tmp_path):
    expected = read(LLAVA / "mmvet_score" / "judge_prompt.json")
    assert expected["few_shot_prompt"] == MMVET_INTRODUCTION
    data, answers = mmvet_data(tmp_path, {"0": "said", "1": "else"})
    replies = iter(["good", "1.5", "0.5", "1.0"])
    with stand_in(lambda request: next(replies)) as server:
        record = score_answers(
            find_task("mm-vet"), answers, data, tmp_path / "out",
            judge=Judge(Endpoint(server.url), "gpt-4-0613", tmp_path / "judge"),
        )  # fmt: skip
        asked = server.requests
    assert record.values["total"] == 75.0
    question = mmvet_question("q0?", "a<AND>b", "said")
    assert question.endswith("\nq0? | a <AND> b | said | ")
    contents = [request["messages"][0]["content"] for request in asked]
    assert contents[:3] == [question, *[question + expected["first_retry_suffix"]] * 2]
    assert [request["temperature"] for request in asked] == [0.0, 0.5, 1.0, 0.0]
    assert {request["max_tokens"] for request in asked} == {expected["max_tokens"]}


def test_mmvet_without_a_grade_is_an_error(tmp_path):
    data, answers = mmvet_data(tmp_path, {"0": "said"})
    said = ["no idea"]
    with stand_in(lambda request: said[0]) as server:
        asker = Judge(Endpoint(server.url), "any", tmp_path / "judge")
        with pytest.raises(RowsFailed, match="no grade"):
            score_answers(find_task("mm-vet"), answers, data, tmp_path / "out", judge=asker)
        said[0] = "0.7"
        record = score_answers(find_task("mm-vet"), answers, data, tmp_path / "out", judge=asker)
    assert record.values["total"] == 70.0, "replies that made no score are not kept"


def test_touchstone_asks_in_both_orders(tmp_path):
    header = "index\tquestion\thuman_annotation\tgpt4_ha_answer\tcategory\ttask_name\n"
    (tmp_path / "touchstone_20230831.tsv").write_text(header + "1\tWhat?\ta dog\tA dog.\tbasic,visual\tx\n")
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question_id": 1, "text": "A cat."}\n')

    def reply(request: dict[str, Any]) -> str:
        ours_first = "[The Start of Assistant 1's Answer]\nA cat." in request["messages"][1]["content"]
        return "6 8" if ours_first else "9 7"

    with stand_in(reply) as server:
        record = score_answers(
            find_task("touchstone"), answers, tmp_path, tmp_path / "out",
            judge=Judge(Endpoint(server.url), "gpt-4", tmp_path / "judge"),
        )  # fmt: skip
        assert [(one["temperature"], one["stop"]) for one in server.requests] == [(0, ["\n"])] * 2
    assert record.values["score"] == 650.0
    assert record.values["reference"] == 850.0
    assert record.values["visual"] == 650.0
