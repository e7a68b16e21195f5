"""Scoring without a model, models behind servers, runs in parts, benchmarks of one's own, sheets."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.openai_stand_in import stand_in

from beholder.core.errors import ConfigError, InputError
from beholder.core.records import RunRecord
from beholder.core.types import Box, Message
from beholder.evaluation.endpoint import Endpoint, EndpointFailed
from beholder.evaluation.files import is_blank, read_answers
from beholder.evaluation.remote import RemoteModel, told_boxes
from beholder.evaluation.report import verdict
from beholder.evaluation.run import RowsFailed, run_task
from beholder.evaluation.scoring import score_answers
from beholder.evaluation.shards import Shard
from beholder.evaluation.sheets import write_sheet
from beholder.evaluation.task import Reply
from beholder.evaluation.tasks import find_task

ROWS = [
    {"image": "a.png", "question": "What colour?", "answer": "red"},
    {"image": "a.png", "question": "Which?", "options": ["a cat", "a dog"], "answer": "a dog"},
    {"image": "a.png", "question": "Where is it?", "box": [10, 10, 30, 30]},
    {"question": "Two and two?", "answers": ["4", "four"], "category": "sums"},
]
REPLIES = {
    "What colour?": "Red.",
    "Which?": "B",
    "Where is it?": "[[250,250,750,750]]",
    "Two and two?": "five",
}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def reply(request: dict[str, Any]) -> str:
    (message,) = request["messages"]
    text = next(part["text"] for part in message["content"] if part["type"] == "text")
    return next(said for question, said in REPLIES.items() if text.startswith(question))


def model(url: str) -> RemoteModel:
    return RemoteModel(Endpoint(url, tries=1), "served")


def test_a_benchmark_of_ones_own_by_a_server(bench, tmp_path):
    task = find_task(str(bench))
    with stand_in(reply) as server:
        record = run_task(model(server.url), "", task, bench.parent, tmp_path / "out", batch=3)
        requests = server.requests
    assert record
    assert record.values["accuracy"] == 0.75
    assert record.values["category: sums"] == 0
    assert record.settings["api"] == server.url
    assert len(requests) == 4
    texts = sorted(
        part["text"] for one in requests for part in one["messages"][0]["content"] if "text" in part
    )
    assert texts[3].endswith(
        "\nA. a cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    )
    pictures = [len(one["messages"][0]["content"]) for one in requests]
    assert sorted(pictures) == [1, 2, 2, 2]
    assert {one["temperature"] for one in requests} == {0.0}


def endings(task: Any, style: str) -> list[str]:
    """What is asked of each row, behind the question itself."""
    rows = task.load(task.home)
    return [
        task.style(style).text(row).removeprefix(asked["question"])
        for row, asked in zip(rows, ROWS, strict=True)
    ]


def test_endings_are_those_of_the_originals_or_ones_own(bench):
    task = find_task(str(bench))
    short, letters = "\nAnswer the question using a single word or phrase.", "\nA. a cat\nB. a dog"
    letter = "\nAnswer with the option's letter from the given choices directly."
    assert endings(task, "llava") == [short, letters + letter, "", short]
    assert endings(task, "plain") == ["", letters, "", ""]
    own = [{**row, "prompt": " In a word."} for row in ROWS]
    bench.write_text("".join(json.dumps(row) + "\n" for row in own))
    for style in ("llava", "plain"):
        asked = endings(find_task(str(bench)), style)
        assert asked == [" In a word.", letters + " In a word.", " In a word.", " In a word."]


@pytest.mark.parametrize(("said", "is_right"), [("心形。", True), ("心形", True), ("圆形。", False)])
def test_an_answer_in_chinese_is_right_with_its_full_stop(said: str, is_right: bool, tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"question": "红色的是什么形状？", "answer": "心形"}), encoding="utf-8")
    task = find_task(str(path))
    assert task.score(Reply(said), task.rows(path)[0])["right"] is is_right


def test_the_built_in_model_is_asked_plainly(bench, tmp_path):
    """It learned no endings; any model may be asked so, and such answers are another run's."""
    task, asked = find_task(str(bench)), list[str]()

    def keep(request: dict[str, Any]) -> str:
        (message,) = request["messages"]
        asked.append(next(part["text"] for part in message["content"] if part["type"] == "text"))
        return reply(request)

    with stand_in(keep) as server:
        ours = RemoteModel(Endpoint(server.url, tries=1), "beholder-mini")
        record = run_task(ours, "", task, bench.parent, tmp_path / "ours")
        assert record
        assert record.settings["style"] == "plain"
        assert "What colour?" in asked
        asked.clear()
        record = run_task(ours, "", task, bench.parent, tmp_path / "as llava", asked_as="llava")
        assert record
        assert "style" not in record.settings, "it is as the task itself says"
        assert "What colour?" not in asked
        with pytest.raises(InputError, match="style was 'plain' and is None"):
            run_task(ours, "", task, bench.parent, tmp_path / "ours", asked_as="llava")
    assert find_task("refcoco-val").style("plain").text({"question": "dog"}) == (
        "What is the bounding box of the dog?"
    )


@pytest.mark.parametrize(
    ("family", "text", "boxes"),
    [
        ("cogvlm", "[[250,250,750,750]] [0.1,0.1,0.2,0.2]", [(10, 5, 30, 15)]),
        ("llava", "[0.25,0.25,0.75,0.75]", [(10, 0, 30, 20)]),
        ("llava", "[[250,250,750,750]]", [(10, 0, 30, 20)]),
        ("", "[[250,250,750,750]] [0.25,0.25,0.75,0.75]", [(10, 5, 30, 15), (10, 0, 30, 20)]),
        ("", "<box>(250,250),(750,750)</box>", [(10, 5, 30, 15)]),
        ("llava", "<box>(250,250),(750,750)</box> [[900,0,100,5]]", []),
    ],
)
def test_boxes_of_a_server_s_model_are_those_of_its_family(family, text, boxes):
    messages = [Message.user(Image.new("RGB", (40, 20)), "Where?")]
    found = RemoteModel(Endpoint("http://nowhere"), "m", family).boxes(text, messages)
    assert [(box.x1, box.y1, box.x2, box.y2) for box in found] == boxes
    assert RemoteModel(Endpoint("http://nowhere"), "m").boxes(text, [Message.user("Where?")]) == ()


def test_boxes_that_our_own_server_tells_are_taken():
    box = {"picture": 0, "pixels": [1.0, 2.0, 3.0, 4.0], "normalised": [0, 0, 0, 0]}
    told = {"choices": [{"message": {"content": "[[0,0,1,1]]", "boxes": [box]}}]}
    assert told_boxes(told) == (Box(1, 2, 3, 4, 0),)
    assert told_boxes({"choices": [{"message": {"content": "[[0,0,1,1]]"}}]}) is None


def test_parts_come_together_and_nothing_is_doubled(bench, tmp_path):
    task, out = find_task(str(bench)), tmp_path / "out"
    with stand_in(reply) as server:
        assert run_task(model(server.url), "", task, bench.parent, out, shard=Shard(1, 2)) is None
        assert not (out / "score.json").exists()
        whole = run_task(model(server.url), "", task, bench.parent, out, shard=Shard(0, 2))
        alone = run_task(model(server.url), "", task, bench.parent, tmp_path / "alone")
        assert len(server.requests) == 2 * len(ROWS)
    assert whole
    assert alone
    assert whole.values == alone.values
    ids = [json.loads(line)["id"] for line in (out / "answers.jsonl").read_text().splitlines()]
    assert ids == ["1", "2", "3", "4"]


def test_parts_of_different_models_do_not_come_together(bench, tmp_path):
    task, out = find_task(str(bench)), tmp_path / "out"
    with stand_in(reply) as server:
        other = RemoteModel(Endpoint(server.url, tries=1), "another")
        assert run_task(other, "", task, bench.parent, out, shard=Shard(1, 2)) is None
        with pytest.raises(InputError, match=r"another run.*model was 'another' and is 'served'"):
            run_task(model(server.url), "", task, bench.parent, out, shard=Shard(0, 2))
        assert not (out / "score.json").exists()


def test_a_server_that_fails_once_is_asked_again_only_for_that_row(bench, tmp_path):
    task, fails = find_task(str(bench)), [True]

    def sometimes(request: dict[str, Any]) -> str | int:
        said = reply(request)
        return 400 if said == "five" and fails[0] else said

    with stand_in(sometimes) as server:
        with pytest.raises(RowsFailed, match="1 of 4 rows failed"):
            run_task(model(server.url), "", task, bench.parent, tmp_path / "out", batch=1)
        fails[0] = False
        asked = len(server.requests)
        assert run_task(model(server.url), "", task, bench.parent, tmp_path / "out", batch=1)
        assert len(server.requests) == asked + 1


def test_endpoint_tries_again_what_may_pass(tmp_path):
    answers = iter([503, 429, "fine"])
    with stand_in(lambda request: next(answers)) as server:
        text, told = Endpoint(server.url, pause=0).text("m", [], {})
    assert (text, told["model"]) == ("fine", "m-served")
    with stand_in(lambda request: 401) as server, pytest.raises(EndpointFailed, match="status 401"):
        Endpoint(server.url, pause=0).text("m", [], {})
    assert len(server.requests) == 1
    with pytest.raises(ConfigError, match="http://"):
        Endpoint("localhost:8000")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a", "http://a/v1/chat/completions"),
        ("http://a/v1/", "http://a/v1/chat/completions"),
        ("http://a/v1/chat/completions", "http://a/v1/chat/completions"),
    ],
)
def test_addresses(url, address):
    assert Endpoint(url).address == address


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"question": "q"}, "needs a question and one of answer"),
        ([1], "line 1 is a list; a line is one JSON object"),
        ({"question": 5, "answer": "x"}, "line 1: question is 5; it should be a text"),
        ({"question": "q", "box": [1, 2, 3]}, r"box is \[1, 2, 3\]; it should be a list of four numbers"),
        ({"question": "q", "answer": "x", "options": "ab"}, "options is 'ab'; it should be a list of texts"),
        ({"question": "q", "answer": None}, "needs a question and one of answer"),
        ({"question": "q", "answer": "x", "image": ["a"]}, r"image is \['a'\]; it should be a text"),
        ({"question": "q", "answer": "x", "colour": 1}, r"unknown \['colour'\]"),
        ({"question": "q", "answer": "x", "options": ["a", "b"]}, "none of the options"),
    ],
)
def test_lines_that_cannot_be_scored(tmp_path, line, told):
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    task = find_task(str(tmp_path / "mine.jsonl"))
    with pytest.raises(InputError, match=told):
        task.load(tmp_path)


def test_null_is_as_good_as_nothing(tmp_path):
    line = {"question": "q", "answer": 3, "options": None, "box": None, "category": None, "id": None}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    (row,) = find_task(str(tmp_path / "mine.jsonl")).load(tmp_path)
    assert (row["id"], row["answers"], row["category"]) == ("1", ["3"], "")


def test_answers_of_every_form_are_read(tmp_path):
    forms = {
        "lines.jsonl": '{"question_id": 1, "text": "yes"}\n{"question_id": 2, "text": "no"}\n',
        "ours.jsonl": '{"id": "1", "answer": "yes"}\n{"id": "2", "answer": "no"}\n',
        "list.json": '[{"question_id": 1, "answer": "yes"}, {"questionId": "2", "prediction": "no"}]',
        "captions.json": '[{"image_id": 1, "caption": "yes"}, {"image_id": 2, "caption": "no"}]',
        "object.json": '{"1": "yes", "2": "no"}',
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert [(one.id, one.text) for one in read_answers(tmp_path / name)] == [("1", "yes"), ("2", "no")], (
            name
        )
    (tmp_path / "wrong.jsonl").write_text('{"colour": 1}\n')
    with pytest.raises(InputError, match="holds something that is no answer"):
        read_answers(tmp_path / "wrong.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"question_id": 1, "text": "yes"}\n{broken\n')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_answers(tmp_path / "broken.jsonl")


def test_our_own_answers_are_scored_again_as_they_were(bench, tmp_path):
    task = find_task(str(bench))
    with stand_in(reply) as server:
        run_task(model(server.url), "", task, bench.parent, tmp_path / "out")
    texts = [row for row in ROWS if "box" not in row]  # boxes in pixels are a model's, not a file's
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    answers = tmp_path / "said.jsonl"
    answers.write_text(
        "".join(
            json.dumps({"id": str(n), "answer": REPLIES[row["question"]]}) + "\n"
            for n, row in enumerate(texts, 1)
        )
    )
    again = score_answers(find_task(str(tmp_path / "texts.jsonl")), answers, tmp_path, tmp_path / "again")
    assert again.values["accuracy"] == pytest.approx(2 / 3)
    assert RunRecord.read(tmp_path / "again" / "score.json") == again
    with pytest.raises(InputError, match="a model's run"):
        score_answers(task, answers, bench.parent, tmp_path / "out")


def test_shards_are_the_originals_chunks():
    rows = [{"id": str(number)} for number in range(10)]
    parts = [[row["id"] for row in Shard(index, 4).part(rows)] for index in range(4)]
    assert parts == [list("012"), list("345"), list("678"), ["9"]]
    assert Shard.read("1/4") == Shard(1, 4)
    for wrong in ("4/4", "1", "a/2", "-1/2"):
        with pytest.raises(ConfigError):
            Shard.read(wrong)


def test_torchrun_sets_the_shard(monkeypatch):
    assert Shard.of_environment() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert Shard.of_environment() == Shard(1, 2)


def test_sheets():
    content = write_sheet([["index", "a<b"], [7, None], [8, " two\nlines"]])
    assert content == write_sheet([["index", "a<b"], [7, None], [8, " two\nlines"]])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert '<c r="A2"><v>7</v></c></row>' in sheet
    assert '<t xml:space="preserve">a&lt;b</t>' in sheet
    assert '<t xml:space="preserve"> two\nlines</t>' in sheet


@pytest.mark.parametrize(
    ("cell", "blank"),
    [("", True), ("nan", True), ("None", True), ("NA", True), ("na", False), (None, True), ("x", False)],
)
def test_cells_that_count_as_missing(cell, blank):
    assert is_blank(cell) is blank


def test_verdicts():
    assert verdict({"id": "1", "error": "x"}) == "error"
    assert verdict({"id": "1", "judge_error": "x", "answer": ""}) == "error"
    assert [verdict({"scores": {"value": value}}) for value in (0, 0.3, 1)] == ["wrong", "partly", "right"]
    assert verdict({"scores": {"upload": "x"}}) == "unscored"
