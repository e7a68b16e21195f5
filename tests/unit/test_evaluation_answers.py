"""The file of answers: nothing lost, nothing doubled, nothing of another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beholder.core.errors import InputError
from beholder.evaluation.answers import AnswerFile

RUN = {"task": "worlds v1", "weights": "abc"}


def lines(folder: Path) -> list[dict[str, str]]:
    return [
        json.loads(line)
        for line in (folder / "answers.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]


def fill(folder: Path, *answers: dict[str, str]) -> None:
    with AnswerFile(folder, RUN) as file:
        file.add(answers)


def test_goes_on_where_it_was(tmp_path):
    fill(tmp_path, {"id": "a", "answer": "1"})
    with AnswerFile(tmp_path, RUN) as file:
        assert set(file.answers) == {"a"}
        file.add([{"id": "b", "answer": "2"}])
    assert [line["id"] for line in lines(tmp_path)] == ["a", "b"]


def test_what_was_added_is_in_the_file_at_once(tmp_path):
    file = AnswerFile(tmp_path, RUN)
    file.add([{"id": "a", "answer": "1"}])
    assert [line["id"] for line in lines(tmp_path)] == ["a"]
    file.close()


@pytest.mark.parametrize("cut", range(1, 38))
def test_a_half_written_line_is_dropped_wherever_it_was_cut(tmp_path, cut):
    fill(tmp_path, {"id": "a", "answer": "1"}, {"id": "b", "answer": "红色 \u2028 及其他"})
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    fill(tmp_path, {"id": "b", "answer": "2"})
    assert [(line["id"], line["answer"]) for line in lines(tmp_path)] == [("a", "1"), ("b", "2")]


def test_line_ends_within_an_answer_stay_there(tmp_path):
    fill(tmp_path, {"id": "a", "answer": "one\ntwo\u2028three\x85four"})
    with AnswerFile(tmp_path, RUN) as file:
        assert file.answers["a"]["answer"] == "one\ntwo\u2028three\x85four"


def test_failures_are_told_and_asked_again(tmp_path):
    with AnswerFile(tmp_path, RUN) as file:
        file.add([{"id": "a", "error": "no memory"}, {"id": "b", "answer": "2"}])
        assert file.failures == {"a": "no memory"}
    assert lines(tmp_path)[0]["error"] == "no memory"
    with AnswerFile(tmp_path, RUN) as file:
        assert set(file.answers) == {"b"}
        assert not file.failures
        file.add([{"id": "a", "answer": "1"}])
    assert sorted(line["id"] for line in lines(tmp_path)) == ["a", "b"]


def test_another_run_is_refused(tmp_path):
    fill(tmp_path, {"id": "a", "answer": "1"})
    with pytest.raises(
        InputError, match=r"another run \(weights was 'abc' and is 'xyz'\); choose another --out"
    ):
        AnswerFile(tmp_path, RUN | {"weights": "xyz"})
    assert [line["id"] for line in lines(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    "text", ["not json", "[1]", '{"id": "a"}', '{"answer": "1"}', '{"id": "a", "answer": "1", "error": "2"}']
)
def test_a_damaged_line_is_told_and_not_removed(tmp_path, text):
    fill(tmp_path, {"id": "b", "answer": "1"})
    path = tmp_path / "answers.jsonl"
    path.write_text(text + "\n" + path.read_text())
    before = path.read_text()
    with pytest.raises(InputError, match="not an answer"):
        AnswerFile(tmp_path, RUN)
    assert path.read_text() == before
