"""Answers to score cards: rows and replies are scored, summed up, and written beside what was answered.

Nothing here needs a model. Answers made elsewhere, in the originals' own files, are scored the same way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from beholder.core.errors import BeholderError, ConfigError, InputError
from beholder.core.records import RunRecord, capture
from beholder.evaluation.cards import flatten
from beholder.evaluation.files import Said, read_answers, read_json, read_json_lines
from beholder.evaluation.judge import Judge
from beholder.evaluation.pairing import by_row
from beholder.evaluation.task import Pair, Reply, Row, Scores, Task, fingerprint, open_row_picture
from beholder.grounding.dialects import place, read_boxes

log = logging.getLogger("beholder")


class RowsFailed(BeholderError, RuntimeError):
    """Some rows have no answer or no score, so there is no score card."""


@dataclass(frozen=True)
class Scored:
    """One row with its answer, and its scores or what went wrong."""

    row: Row
    reply: Reply
    scores: Scores | None
    error: str = ""

    def line(self) -> dict[str, Any]:
        """As it is written to answers.jsonl."""
        told = {"id": self.row["id"], "question": self.row["question"], "answer": self.reply.text}
        if self.scores is None:
            return told | {"judge_error": self.error}
        return told | {"scores": dict(self.scores)}


def score_pairs(
    task: Task, pairs: Sequence[Pair], strict: bool = False, judge: Judge | None = None
) -> list[Scored]:
    """Scores of all pairs, by the task's rule or by the judge."""
    if task.review is None:
        rule = task.scorer(strict)
        return [Scored(row, reply, rule(reply, row)) for row, reply in pairs]
    if judge is None:
        raise ConfigError(
            f"{task.name} is scored by a judge; name its server with --judge and its model with --judge-model"
        )
    scored: list[Scored] = []
    for row, reply in pairs:
        judge.start_row()
        try:
            scored.append(Scored(row, reply, task.review(judge, reply, row)))
        except BeholderError as error:
            judge.forget_row()
            log.warning("row %s was not judged: %s", row["id"], error)
            scored.append(Scored(row, reply, None, str(error)))
    return scored


def score_answers(
    task: Task,
    answers: Path,
    data: Path,
    out: Path,
    *,
    subject: str | None = None,
    strict: bool = False,
    judge: Judge | None = None,
) -> RunRecord:
    """The score card of an answer file; answers.jsonl, score.json and what is uploaded go to `out`."""
    if not answers.is_file():
        raise InputError(f"there is no file {answers}")
    rows = task.load(data)
    _claim(out, {"task": task.measure, "answers": hashlib.sha256(answers.read_bytes()).hexdigest()[:16]})
    found = _judged_already(task, answers, rows)
    if found is not None:
        judge = None  # whatever is named now took no part
    else:
        said = read_answers(answers, task.skips_broken_lines)
        pairs = (task.pair or by_row())(said, rows)
        subject = subject or next(
            (str(one.line["model_id"]) for one in said if one.line.get("model_id")), answers.stem
        )
        if absent := sum(reply.is_missing for _, reply in pairs):
            log.warning("%s: %d of %d rows have no answer", task.name, absent, len(rows))
        write_submission(task, pairs, data, out, said)
        if task.reads_boxes:
            pairs = [(row, with_boxes(reply, row, data)) for row, reply in pairs]
        found = score_pairs(task, pairs, strict, judge)
    settings = {"answers": answers.name, "data": fingerprint(rows), "rows": len(rows)}
    return write_card(task, found, out, subject or answers.stem, settings, strict=strict, judge=judge)


def _judged_already(task: Task, answers: Path, rows: Sequence[Row]) -> list[Scored] | None:
    """The scores that an earlier judge gave, if that is what the file holds."""
    if task.grades and answers.suffix == ".json" and _is_graded(answers):
        graded = task.grades(answers, rows)
        return [Scored(row, Reply(""), scores) for row, scores in zip(rows, graded, strict=True)]
    if task.reviewed is None:
        return None
    with suppress(json.JSONDecodeError, UnicodeDecodeError, IndexError):  # `read_answers` will say it better
        first: Any = json.loads(answers.read_text(encoding="utf-8-sig").strip().split("\n")[0])
        if not isinstance(first, dict) or not {"tuple", "score"} & set(cast("dict[str, Any]", first)):
            return None
        return _reviews(task.reviewed, answers, rows)
    return None


def _reviews(read: Callable[[Said], Scores], answers: Path, rows: Sequence[Row]) -> list[Scored]:
    by_id = {row["id"]: row for row in rows}
    return [
        Scored(by_id.get(said.id, {"id": said.id, "question": ""}), Reply(""), read(said))
        for said in read_reviews(answers)
    ]


def _is_graded(path: Path) -> bool:
    told = read_json(path)
    return isinstance(told, dict) and any(isinstance(one, dict) and "score" in one for one in told.values())  # pyright: ignore[reportUnknownVariableType]


def read_reviews(path: Path, ignored: Sequence[str] = ()) -> list[Said]:
    """The lines of a review file, less those of some questions."""
    said = [
        Said(str(line.get("question_id", number)), str(line.get("content", "")), line)
        for number, line in enumerate(read_json_lines(path), 1)
    ]
    return [one for one in said if one.id not in ignored]


def write_card(
    task: Task,
    scored: Sequence[Scored],
    out: Path,
    subject: str,
    settings: Mapping[str, Any],
    *,
    strict: bool = False,
    judge: Judge | None = None,
    weights: str = "",
    seconds: float = 0.0,
    lines: Sequence[Mapping[str, Any]] | None = None,
) -> RunRecord:
    """Write every row with its score, and the record; rows that have no score are an error after that."""
    _write_lines(out, lines or [one.line() for one in scored])
    failed = [one for one in scored if one.scores is None]
    if failed:
        (out / "score.json").unlink(missing_ok=True)  # of an earlier scoring, and no longer true
        raise RowsFailed(
            f"{len(failed)} of {len(scored)} rows could not be scored, first {failed[0].row['id']} "
            f"({failed[0].error}); run the same command again to judge only these"
        )
    scores = [one.scores for one in scored if one.scores is not None]
    if task.reviews and judge:
        told = [(one.row, one.reply, one.scores) for one in scored if one.scores is not None]
        _write_files(task.reviews(told), out)
    about: dict[str, Any] = {
        "protocol": task.protocol,
        "metric": "strict" if strict else "original",
        **settings,
    }
    about |= {"headline": task.headline, "points": list(task.points)}
    about["quirks"] = [] if strict else list(task.quirks)
    record = capture(
        subject=subject,
        weights=weights,
        measure=task.measure,
        values=flatten(task.summarize(scores, strict)),
        samples=len(scored),
        settings=about | (judge.describe() if judge and task.review else {}),
        seconds=seconds,
    )
    record.write(out / "score.json")
    return record


def _write_lines(out: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """In one atomic step: answers of a long run are not lost by a kill while scores are added."""
    out.mkdir(parents=True, exist_ok=True)
    fresh = out / "answers.jsonl.tmp"
    fresh.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(fresh, out / "answers.jsonl")


def with_boxes(reply: Reply, row: Row, data: Path) -> Reply:
    """The reply with the boxes that its text names, each in the space of its form, unless it has them."""
    written = () if reply.tells_boxes else read_boxes(reply.text).boxes
    if not written:
        return reply
    if row.get("width") and row.get("height"):
        size = (int(row["width"]), int(row["height"]))
    else:
        picture = open_row_picture(data, row["image"])
        if picture is None:
            return reply
        size = picture.size
    return replace(reply, boxes=tuple(place(box, *size) for box in written))


def write_submission(
    task: Task, pairs: Sequence[Pair], data: Path, out: Path, answers: Sequence[Said] | None = None
) -> list[Path]:
    """The files that are uploaded or given to an official scorer, where a benchmark has them."""
    files: Mapping[str, bytes] = task.submit(pairs, data) if task.submit else {}
    if task.convert:
        given = [Said(row["id"], reply.text, {}) for row, reply in pairs if not reply.is_missing]
        files = task.convert(given if answers is None else answers, data)
    return _write_files(files, out)


def _write_files(files: Mapping[str, bytes], out: Path) -> list[Path]:
    written: list[Path] = []
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    return written


def _claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Answers of a model are not overwritten by answers of a file."""
    path = out / "run.json"
    if path.exists() and "answers" not in read_json(path):
        raise InputError(f"{out} holds the answers of a model's run; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(identity), indent=1) + "\n", encoding="utf-8")
