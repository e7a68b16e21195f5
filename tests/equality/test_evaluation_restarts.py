"""A run that is killed anywhere, and started again, ends with the files of a run that was left alone."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image

from beholder.api import VLM
from beholder.core.records import RunRecord
from beholder.core.types import Box, Message
from beholder.evaluation import answers as files
from beholder.evaluation import run as running
from beholder.evaluation.run import run_task
from beholder.evaluation.shards import Shard
from beholder.evaluation.task import Reply
from beholder.evaluation.tasks.custom import custom_task

ROWS = 40
STEPS = 50  # a whole run has more
WORDS = ("red", "blue", "3", "the star\u2028on the left", "这里")


class Killed(BaseException):
    """What a kill looks like from inside: nothing of the program catches it."""


def scripted(messages: Sequence[Message]) -> Reply:
    """The answer follows from the question alone, and so does what it costs."""
    number = zlib.crc32(messages[-1].text.encode())
    boxes = (Box(number % 7, 0, 8, 8),) if number % 3 == 0 else ()
    return Reply(WORDS[number % len(WORDS)], boxes, number % 5 + 1, 0.25)


@pytest.fixture
def vlm(monkeypatch: pytest.MonkeyPatch) -> VLM:
    def answer_stream(_: VLM, conversations: Sequence[Sequence[Message]], longest: int) -> list[Reply]:
        return [scripted(messages) for messages in conversations]

    monkeypatch.setattr(running, "answer_stream", answer_stream)
    model = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    family = SimpleNamespace(name="scripted", title="Scripted")
    engine = SimpleNamespace(kv_dtype=None)
    told: Any = SimpleNamespace(model=model, engine=engine, family=family, name="scripted", folder=None)
    return cast(VLM, told)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    lines = [
        {
            "image": "a.png",
            "question": f"What is {n}?",
            "answer": WORDS[n % len(WORDS)],
            "category": f"{n % 3}",
        }
        for n in range(ROWS)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ask(vlm: VLM, bench: Path, out: Path, shard: Shard | None = None) -> RunRecord | None:
    return run_task(vlm, "weights", custom_task(bench), bench.parent, out, batch=4, shard=shard)


def left(out: Path) -> dict[str, Any]:
    """All that a run leaves; of the record what does not tell when and where it was."""
    record = json.loads((out / "score.json").read_text())
    told = {key: record[key] for key in ("subject", "weights", "measure", "values", "samples", "settings")}
    return {
        "record": told,
        "answers": (out / "answers.jsonl").read_bytes(),
        "files": sorted(path.name for path in out.iterdir() if path.is_file() and path.name != "run.json"),
    }


def kill_somewhere(monkeypatch: pytest.MonkeyPatch, draw: random.Random) -> None:
    """One of the steps from now on is the last: a line half written, a file not yet in its place, a score."""
    steps, half = draw.randrange(STEPS), draw.random()

    def counts(step: Any, torn: Any = None) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal steps
            if steps == 0:
                if torn:
                    torn(*arguments)
                raise Killed
            steps -= 1
            return step(*arguments, **named)

        return wrapped

    def tear(file: files.AnswerFile, lines: Sequence[Any]) -> None:
        """What the disk has of some lines when the power goes: all bytes up to somewhere."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        file.close()
        with file.path.open("ab") as raw:
            raw.write(text[: int(half * len(text))])

    monkeypatch.setattr(files.AnswerFile, "add", counts(files.AnswerFile.add, tear))
    monkeypatch.setattr(files.os, "replace", counts(files.os.replace))
    monkeypatch.setattr(running, "answer_stream", counts(running.answer_stream))
    monkeypatch.setattr(running, "score_pairs", counts(running.score_pairs))


@pytest.mark.parametrize("seed", range(20))
def test_killed_again_and_again(vlm, bench, tmp_path, seed):
    draw = random.Random(seed)
    ask(vlm, bench, tmp_path / "whole")
    kills = 0
    for _ in range(3):
        with pytest.MonkeyPatch.context() as patched:
            kill_somewhere(patched, draw)
            try:
                ask(vlm, bench, tmp_path / "killed")
            except Killed:
                kills += 1
    assert kills, "no kill struck, so this shows nothing"
    ask(vlm, bench, tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


def test_a_part_of_a_run_too(vlm, bench, tmp_path):
    ask(vlm, bench, tmp_path / "whole")
    draw, out = random.Random(1), tmp_path / "parts"

    def parts() -> list[RunRecord | None]:
        return [ask(vlm, bench, out, Shard(index, 3)) for index in range(3)]

    with pytest.MonkeyPatch.context() as patched:
        kill_somewhere(patched, draw)
        with pytest.raises(Killed):
            parts()
    records = parts()
    assert records[-1] is not None
    assert left(out) == left(tmp_path / "whole")
