"""Answer files, question lists and tables as they come from other people's machines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.evaluation.files import read_answers, read_json_lines, read_table
from beholder.evaluation.pairing import by_answer, by_row
from beholder.evaluation.scoring import score_answers
from beholder.evaluation.tasks import find_task

YES, NO = '{"question_id": 1, "text": "yes"}', '{"question_id": 2, "text": "no\u2028way"}'
BOM = "\ufeff"


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"{YES}\n{NO}\n",
        f"{YES}\r\n{NO}\r\n",
        f"{BOM}{YES}\n{NO}",
        f"\n{YES}\n\n  \n{NO}\n\n",
        f"[{YES},{NO}]",
        f"{BOM}[{YES},\r\n{NO}]",
    ],
)
def test_marks_and_line_ends_do_not_matter(tmp_path, text):
    said = read_answers(written(tmp_path / "a.jsonl", text))
    assert [(one.id, one.text) for one in said] == [("1", "yes"), ("2", "no\u2028way")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"question_id": null, "text": "yes"}', "neither may be null"),
        ('{"question_id": 1, "text": null}', "neither may be null"),
        ('{"question_id": 1}', "it has question_id"),
        ('["yes"]', "it has str"),
        ("[1, 2]", "it has int"),
        ('{"id": "7", "question": "q", "error": "InputError: x"}', "row '7' failed and has no answer"),
    ],
)
def test_lines_that_are_no_answers(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        read_answers(written(tmp_path / "a.jsonl", text))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"question_id": 1, "text": "café"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 31\)"):
        read_json_lines(tmp_path / "latin.jsonl")
    with pytest.raises(InputError, match="there is no file"):
        read_json_lines(tmp_path)


def test_a_question_s_id_goes_before_a_review_s(tmp_path):
    text = '{"id": 1, "question_id": "q7", "text": "x"}\n{"id": "r", "answer": ""}\n'
    said = read_answers(written(tmp_path / "a.jsonl", text))
    assert [(one.id, one.is_ours) for one in said] == [("q7", False), ("r", True)]


def test_tables(tmp_path):
    (row,) = read_table(written(tmp_path / "a.tsv", f'{BOM}index\tA\r\n1\t"two\nlines"\r\n'))
    assert row == {"index": "1", "A": "two\nlines"}
    (tmp_path / "b.tsv").write_bytes(b"index\tA\n1\t\xe9\n")
    with pytest.raises(InputError, match="no table with tabs in UTF-8"):
        read_table(tmp_path / "b.tsv")


def test_a_wrong_column_is_named(tmp_path):
    written(tmp_path / "mmbench_dev_cn_1.tsv", "number\tquestion\n1\tWhat?\n")
    with pytest.raises(InputError, match="is not in the format of mmbench-cn: there is no 'index'"):
        find_task("mmbench-cn").load(tmp_path)
    written(tmp_path / "llava_pope_test.jsonl", '["a list"]\n')
    with pytest.raises(InputError, match="not in the format of pope"):
        find_task("pope").load(tmp_path)


def test_an_id_given_twice_is_named(tmp_path):
    path = written(tmp_path / "mine.jsonl", '{"id": 3, "question": "q", "answer": "a"}\n' * 2)
    with pytest.raises(InputError, match="1 ids of mine are given more than once, first '3'"):
        find_task(str(path)).load(tmp_path)


def rows(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "image": "", "question": ""} for name in names]


def test_answers_that_belong_to_nothing(tmp_path, caplog):
    said = read_answers(written(tmp_path / "a.jsonl", f"{YES}\n{YES}\n{NO}\n"))
    with caplog.at_level(logging.WARNING):
        pairs = by_row(missing="empty")(said, rows("1", "3"))
    assert [(reply.text, reply.is_missing) for _, reply in pairs] == [("yes", False), ("", True)]
    assert "1 answers are to rows that have another" in caplog.text
    with pytest.raises(InputError, match="2 of 2 rows have no answer"):
        by_row(missing="empty")(said, rows("8", "9"))
    with caplog.at_level(logging.WARNING):
        assert len(by_answer()(said, rows("1", "2", "3"))) == 3
    assert "1 of 3 rows have no answer and do not count" in caplog.text
    with pytest.raises(InputError, match="belongs to no row"):
        by_answer()(said, rows("1"))
    with pytest.raises(InputError, match="no answer to score"):
        by_answer()([], rows("1"))


def test_boxes_of_answers_that_are_scored_again(tmp_path):
    """Our own lines bring their boxes in pixels; those of other people are read in the form they have."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": "Where?", "box": [50, 0, 150, 100]}] * 4
    bench = written(tmp_path / "mine.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    box = {"x1": 50.0, "y1": 0.0, "x2": 150.0, "y2": 100.0, "picture": 0}
    told = [
        {"id": "1", "answer": "[[000,000,001,001]]", "boxes": [box]},
        {"id": "2", "answer": "[[250,000,750,999]]"},
        {"id": "3", "answer": "[0.25,0.25,0.75,0.75]"},
        {"id": "4", "answer": "[[250,000,750,999]]", "boxes": []},
    ]
    answers = written(tmp_path / "said.jsonl", "".join(json.dumps(line) + "\n" for line in told))
    score_answers(find_task(str(bench)), answers, tmp_path, tmp_path / "out")
    scored = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [one["scores"]["right"] for one in scored] == [True, True, True, False]
    told[0]["boxes"] = [{"left": 1}]
    written(answers, "".join(json.dumps(line) + "\n" for line in told))
    with pytest.raises(InputError, match="boxes of the answer to '1'"):
        score_answers(find_task(str(bench)), answers, tmp_path, tmp_path / "out")
