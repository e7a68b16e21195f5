"""Asks a model every row of a task and scores the answers; killed and started again, it goes on where it was.

A row that fails is written down as failed and asked again by the next run. It is never counted as a wrong
answer: there is no score card before every row has its answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from beholder.core.errors import BeholderError, ConfigError, InputError
from beholder.core.records import RunRecord, capture
from beholder.core.types import Box
from beholder.evaluation.answers import AnswerFile, Line
from beholder.evaluation.batches import answer_batch, answer_one
from beholder.evaluation.intervals import Interval
from beholder.evaluation.task import Reply, Row, Task, fingerprint
from beholder.processing.images import open_picture

if TYPE_CHECKING:
    from beholder.api import VLM
    from beholder.core.types import Message

Progress = Callable[[int, int], None]  # rows answered, rows in all

HOPELESS = 16  # this many failures without an answer between them, and the run ends

log = logging.getLogger("beholder")


class RowsFailed(BeholderError, RuntimeError):
    """Some rows have no answer, so there is no score."""


def run_task(
    vlm: VLM,
    weights: str,
    task: Task,
    data: Path,
    out: Path,
    *,
    batch: int = 32,
    limit: int | None = None,
    progress: Progress = lambda answered, rows: None,
) -> RunRecord:
    """Answers of all rows (or the first `limit`) to OUT/answers.jsonl, their score card to OUT/score.json.

    `weights` is the hash of the model's weights: answers of other weights in OUT are refused.
    """
    if batch < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch is {batch} and limit is {limit}; both must be at least 1")
    every = task.load(data)
    rows = every[:limit]
    settings = {"data": fingerprint(every), "dtype": str(vlm.model.dtype), "max_tokens": task.max_tokens}
    with AnswerFile(out, {"task": task.measure, "weights": weights, **settings}) as file:
        ask_rows(vlm, task, rows, data, file, batch, progress)
    if file.failures:
        name, reason = next(iter(file.failures.items()))
        raise RowsFailed(
            f"{len(file.failures)} of {len(rows)} rows failed, first {name} ({reason}); run the same command "
            f"again to ask only these, all other answers are in {file.path}"
        )
    lines = [file.answers[row["id"]] for row in rows]
    scores = [task.score(_reply(line), row) for line, row in zip(lines, rows, strict=True)]
    settings |= {"batch": batch, "limit": limit, "sampling": "greedy", "protocol": task.protocol}
    settings |= {"pictures": len({row["image"] for row in rows})}
    record = capture(
        subject=Path(vlm.name).name if Path(vlm.name).is_dir() else vlm.name,
        weights=weights,
        measure=task.measure,
        values=flatten(task.summary(scores)),
        samples=len(rows),
        settings=settings | {"device": str(vlm.model.device), "threads": torch.get_num_threads()},
        seconds=round(sum(line["seconds"] for line in lines), 3),
    )
    record.write(out / "score.json")
    return record


def ask_rows(
    vlm: VLM, task: Task, rows: Sequence[Row], data: Path, file: AnswerFile, batch: int, progress: Progress
) -> None:
    """Ask what has no answer yet, in order, so that rows about one picture come together."""
    pending = [row for row in rows if row["id"] not in file.answers]
    if len(pending) < len(rows):
        log.info("%s: %d of %d rows are answered already", file.path, len(rows) - len(pending), len(rows))
    failed_in_a_row = 0
    for start in range(0, len(pending), batch):
        chosen = pending[start : start + batch]
        lines = ask_batch(vlm, task, chosen, data)
        file.add(lines)
        failed_in_a_row = failed_in_a_row + len(lines) if all("error" in line for line in lines) else 0
        if failed_in_a_row >= HOPELESS:
            raise RowsFailed(f"{failed_in_a_row} rows failed one after the other, last: {lines[-1]['error']}")
        progress(len(rows) - len(pending) + start + len(chosen), len(rows))


def ask_batch(vlm: VLM, task: Task, rows: Sequence[Row], data: Path) -> list[Line]:
    """Lines for some rows; if the batch fails as a whole, each row is tried by itself."""
    conversations: list[Sequence[Message]] = []
    try:
        pictures = {name: open_picture(data / name) for name in {row["image"] for row in rows}}
        conversations = [task.conversation(row, pictures[row["image"]]) for row in rows]
        replies = answer_batch(vlm, conversations, task.max_tokens)
        return [_line(task, row, reply) for row, reply in zip(rows, replies, strict=True)]
    except Exception as error:
        if len(rows) > 1:
            log.warning("a batch failed (%s); its rows are asked one by one", error)
    return [ask_alone(vlm, task, row, data) for row in rows]


def ask_alone(vlm: VLM, task: Task, row: Row, data: Path) -> Line:
    """The line of one row, with its answer or with what went wrong."""
    try:
        conversation = task.conversation(row, open_picture(data / row["image"]))
        return _line(task, row, answer_one(vlm, conversation, task.max_tokens))
    except Exception as error:  # whatever it is, the row failed and the file says so
        log.warning("row %s failed: %s", row["id"], error)
        return {"id": row["id"], "question": row["question"], "error": f"{type(error).__name__}: {error}"}


def _line(task: Task, row: Row, reply: Reply) -> Line:
    return {
        "id": row["id"],
        "question": row["question"],
        "answer": reply.text,
        "boxes": [asdict(box) for box in reply.boxes],
        "scores": dict(task.score(reply, row)),
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 4),
    }


def _reply(line: Line) -> Reply:
    return Reply(line["answer"], tuple(Box(**box) for box in line["boxes"]), line["tokens"], line["seconds"])


def flatten(figures: Mapping[str, Interval]) -> dict[str, float]:
    """Figures as records hold them: `name`, and `name.low`, `name.high`, `name.samples` beside it."""
    values: dict[str, float] = {}
    for name, figure in figures.items():
        values |= {name: figure.value, f"{name}.low": figure.low, f"{name}.high": figure.high}
        values[f"{name}.samples"] = figure.samples
    return values


def read_figures(values: Mapping[str, float]) -> dict[str, Interval]:
    """The way back from `flatten`."""
    names = [name for name in values if f"{name}.samples" in values]
    if len(names) * 4 != len(values):
        raise InputError("these values are not figures with intervals; the record is none of `beholder eval`")
    return {
        name: Interval(
            values[name], values[f"{name}.low"], values[f"{name}.high"], int(values[name + ".samples"])
        )
        for name in names
    }
