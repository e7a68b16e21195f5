"""A run of a task: killed anywhere it ends with the same score card, and a failure is never a wrong
answer.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_checkpoint import make_tiny_checkpoint

import beholder
from beholder.core.errors import ConfigError, InputError
from beholder.core.records import RunRecord
from beholder.evaluation import run as running
from beholder.evaluation.cards import flatten, read_figures
from beholder.evaluation.intervals import Interval
from beholder.evaluation.run import RowsFailed, run_task
from beholder.evaluation.tasks.worlds import WORLDS
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

SCENES = 3
TASK = replace(WORLDS, max_tokens=4)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> beholder.VLM:
    folder = make_tiny_checkpoint(
        tmp_path_factory.mktemp("tiny"), llama3_tokenizer, image_aspect_ratio="square"
    )
    return beholder.load(folder, device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "data", Plan(scenes=SCENES, seed=1, split="test"), FontBook())
    return tmp_path / "data"


def run(vlm: beholder.VLM, data: Path, out: Path, batch: int = 8, **settings: Any) -> RunRecord:
    return run_task(vlm, "the hash", TASK, data, out, batch=batch, **settings)


def answers(out: Path) -> list[tuple[str, str]]:
    text = (out / "answers.jsonl").read_text(encoding="utf-8")
    return [(line["id"], line["answer"]) for line in map(json.loads, text.splitlines())]


def test_one_answer_for_each_row_and_a_record(vlm, data, tmp_path):
    record = run(vlm, data, tmp_path / "out")
    rows = WORLDS.load(data)
    assert [name for name, _ in answers(tmp_path / "out")] == [row["id"] for row in rows]
    assert (record.measure, record.weights, record.samples) == ("worlds v1", "the hash", len(rows))
    assert record.values["overall.samples"] == len(rows)
    assert RunRecord.read(tmp_path / "out" / "score.json") == record
    assert "/" not in record.subject, "a record is shared; it does not tell where a folder lies"


def test_every_batch_size_says_the_same(vlm, data, tmp_path):
    run(vlm, data, tmp_path / "single", batch=1)
    for batch in (3, 64):
        run(vlm, data, tmp_path / str(batch), batch=batch)
        assert answers(tmp_path / str(batch)) == answers(tmp_path / "single")


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_killed_and_started_again(vlm, data, tmp_path, monkeypatch, batches):
    whole = run(vlm, data, tmp_path / "whole")
    asked: list[int] = []
    answer_stream = running.answer_stream

    def dies(vlm_: Any, conversations: Any, max_tokens: int) -> Any:
        if len(asked) == batches:
            raise KeyboardInterrupt
        asked.append(len(conversations))
        return answer_stream(vlm_, conversations, max_tokens)

    monkeypatch.setattr(running, "answer_stream", dies)
    with pytest.raises(KeyboardInterrupt):
        run(vlm, data, tmp_path / "killed")
    path = tmp_path / "killed" / "answers.jsonl"
    assert not (path.parent / "score.json").exists()
    with path.open("a") as file:
        file.write('{"id": "half a li')

    def counts(vlm_: Any, conversations: Any, max_tokens: int) -> Any:
        asked.append(len(conversations))
        return answer_stream(vlm_, conversations, max_tokens)

    monkeypatch.setattr(running, "answer_stream", counts)
    again = run(vlm, data, tmp_path / "killed")
    assert again.values == whole.values
    assert answers(path.parent) == answers(tmp_path / "whole")
    assert sum(asked) == whole.samples, "a row was asked twice"


def test_a_finished_run_asks_nothing(vlm, data, tmp_path, monkeypatch):
    first = run(vlm, data, tmp_path / "out")
    monkeypatch.setattr(running, "answer_stream", None)
    assert run(vlm, data, tmp_path / "out").values == first.values


def test_a_failed_row_is_told_and_asked_again(vlm, data, tmp_path):
    picture = data / WORLDS.load(data)[0]["image"]
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    rows = WORLDS.load(data)
    broken = sum(row["image"] == rows[0]["image"] for row in rows)
    with pytest.raises(RowsFailed, match=f"{broken} of {len(rows)} rows failed, first {rows[0]['id']}"):
        run(vlm, data, tmp_path / "out")
    text = (tmp_path / "out" / "answers.jsonl").read_text()
    assert text.count('"error": "InputError: ') == broken
    assert not (tmp_path / "out" / "score.json").exists()
    picture.write_bytes(whole)
    assert run(vlm, data, tmp_path / "out").samples == len(rows)
    assert sorted(answers(tmp_path / "out")) == sorted(set(answers(tmp_path / "out")))


def test_when_nothing_works_the_run_ends_early(vlm, data, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "HOPELESS", 3)
    for picture in (data / "images").iterdir():
        picture.unlink()
    with pytest.raises(RowsFailed, match="4 rows failed one after the other"):
        run(vlm, data, tmp_path / "out", batch=2)


def test_only_the_first_rows_then_the_rest(vlm, data, tmp_path):
    assert run(vlm, data, tmp_path / "out", limit=5).samples == 5
    record = run(vlm, data, tmp_path / "out")
    assert record.samples == len(answers(tmp_path / "out")) > 5
    assert run(vlm, data, tmp_path / "out", limit=5).values["overall.samples"] == 5


def test_other_rows_are_another_run(vlm, data, tmp_path):
    run(vlm, data, tmp_path / "out", limit=2)
    path = data / "questions.json"
    path.write_text(path.read_text().replace('"No."', '"Yes."'))
    with pytest.raises(InputError, match="another run"):
        run(vlm, data, tmp_path / "out")


@pytest.mark.parametrize("setting", [{"batch": 0}, {"limit": 0}])
def test_settings_that_cannot_work(vlm, data, tmp_path, setting):
    with pytest.raises(ConfigError, match="at least 1"):
        run(vlm, data, tmp_path / "out", **setting)


def test_figures_there_and_back():
    figures = {"overall": Interval(0.5, 0.4, 0.6, 100), "overall.en": Interval(0.25, 0.0, 0.5, 4)}
    assert read_figures(flatten(figures)) == figures
    with pytest.raises(InputError, match="not figures"):
        read_figures({"tokens_per_s": 100.0})
