"""Asks a model every row of a task and scores the answers; killed and started again, it goes on where it was.

A row that fails is written down as failed and asked again by the next run. It is never counted as a wrong
answer: there is no score card before every row has its answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from beholder import mini
from beholder.api import BUILT_IN
from beholder.checkpoints.narrow import quantization
from beholder.core.errors import ConfigError
from beholder.core.records import RunRecord
from beholder.core.types import Box
from beholder.evaluation.answers import AnswerFile, Line
from beholder.evaluation.batches import Lazily, answer_one, answer_stream
from beholder.evaluation.judge import Judge
from beholder.evaluation.remote import RemoteModel
from beholder.evaluation.scoring import RowsFailed, score_pairs, write_card, write_submission
from beholder.evaluation.shards import Shard, gather
from beholder.evaluation.task import PLAIN, Reply, Row, Style, Task, fingerprint, open_row_picture

if TYPE_CHECKING:
    from beholder.api import VLM
    from beholder.core.types import Message

Progress = Callable[[int, int], None]  # rows answered, rows in all

PICTURES_KEPT = 4  # opened at once; rows about one picture follow each other
HOPELESS = 16  # this many failures without an answer between them, and the run ends

log = logging.getLogger("beholder")


def run_task(
    vlm: VLM | RemoteModel,
    weights: str,
    task: Task,
    data: Path,
    out: Path,
    *,
    batch: int = 32,
    limit: int | None = None,
    progress: Progress = lambda answered, rows: None,
    strict: bool = False,
    judge: Judge | None = None,
    shard: Shard | None = None,
    asked_as: str = "",
) -> RunRecord | None:
    """Answers of all rows (or the first `limit`) to OUT/answers.jsonl, their score card to OUT/score.json.

    `weights` is the hash of the model's weights: answers of other weights in OUT are refused. A `shard` asks
    its part of the rows in a folder of its own; there is no record before all parts are done. `asked_as`
    names the family whose original decides how is asked, or PLAIN; left out, it is the model's own.
    """
    if batch < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch is {batch} and limit is {limit}; both must be at least 1")
    if task.review and judge is None:
        raise ConfigError(
            f"{task.name} is scored by a judge; name its server with --judge and its model with --judge-model"
        )
    every = task.load(data)
    rows = every[:limit]
    name = asked_as or style_of(vlm)
    style = task.style(name)
    settings = {"data": fingerprint(every), **describe_model(vlm), "max_tokens": style.max_tokens}
    if style != task.style(family_of(vlm)):
        settings |= {"style": name}
    mine = shard.part(rows) if shard else rows
    folder = out / shard.folder if shard else out
    if style.template:
        settings |= {"template": style.template}
    identity = {"task": task.measure, "weights": weights, **settings}
    with AnswerFile(folder, identity) as file:
        ask_rows(in_template(vlm, style.template), task, style, mine, data, file, batch, progress)
    if file.failures:
        name, reason = next(iter(file.failures.items()))
        raise RowsFailed(
            f"{len(file.failures)} of {len(mine)} rows failed, first {name} ({reason}); run the same command "
            f"again to ask only these, all other answers are in {file.path}"
        )
    answers = gather(out, shard, rows, identity) if shard else file.answers
    if answers is None:
        return None
    settings |= {"batch": batch, "limit": limit, "sampling": "greedy", "rows": len(every)}
    asked = {row["id"]: answers[row["id"]] for row in rows}
    kept = [line for name, line in answers.items() if name not in asked]
    return score_lines(vlm, weights, task, rows, [*asked.values()], kept, data, out, settings, strict, judge)


def score_lines(
    vlm: VLM | RemoteModel, weights: str, task: Task, rows: Sequence[Row], lines: Sequence[Line],
    kept: Sequence[Line], data: Path, out: Path, settings: Mapping[str, Any], strict: bool,
    judge: Judge | None,
) -> RunRecord:  # fmt: skip
    """Scores of answered rows, their record and what is uploaded; `kept` are answers beyond the limit."""
    pairs = [(row, _reply(line)) for row, line in zip(rows, lines, strict=True)]
    write_submission(task, pairs, data, out)
    scored = score_pairs(task, pairs, strict, judge)
    told = [{**_bare(line), **one.line()} for line, one in zip(lines, scored, strict=True)]
    pictures = len({row["image"] for row in rows})
    return write_card(
        task, scored, out, vlm.name,
        {**settings, "pictures": pictures, **describe_device(vlm)},
        strict=strict, judge=judge, weights=weights, lines=[*told, *kept],
        seconds=round(sum(line["seconds"] for line in lines), 3),
    )  # fmt: skip


def _bare(line: Line) -> Line:
    """A line without what an earlier scoring added."""
    return {key: value for key, value in line.items() if key not in ("scores", "judge_error")}


def family_of(vlm: VLM | RemoteModel) -> str:
    """The family whose original decides how a task asks."""
    return vlm.family if isinstance(vlm, RemoteModel) else vlm.family.name


def style_of(vlm: VLM | RemoteModel) -> str:
    """How a model is asked if nobody says; the built-in one and its adapters learned no endings."""
    is_built_in = vlm.name == BUILT_IN if isinstance(vlm, RemoteModel) else vlm.folder == mini.FOLDER
    return PLAIN if is_built_in else family_of(vlm)


def in_template(vlm: VLM | RemoteModel, name: str | None) -> VLM | RemoteModel:
    """The model asking in the template that the style names; a server's model asks in its own."""
    return vlm if name is None or isinstance(vlm, RemoteModel) else vlm.with_template(name)


def describe_model(vlm: VLM | RemoteModel) -> dict[str, Any]:
    """What answers depend on besides weights and questions."""
    if isinstance(vlm, RemoteModel):
        return {"api": vlm.endpoint.url, "model": vlm.name, "family": vlm.family}
    rounded = {"quantization": quantization(vlm.model), "kv_dtype": vlm.engine.kv_dtype}
    return {"dtype": str(vlm.model.dtype)} | {name: value for name, value in rounded.items() if value}


def describe_device(vlm: VLM | RemoteModel) -> dict[str, Any]:
    """Where the model ran."""
    if isinstance(vlm, RemoteModel):
        return {}
    return {"device": str(vlm.model.device), "threads": torch.get_num_threads()}


def ask_rows(
    vlm: VLM | RemoteModel, task: Task, style: Style, rows: Sequence[Row], data: Path, file: AnswerFile,
    batch: int, progress: Progress,
) -> None:  # fmt: skip
    """Ask what has no answer yet, in order, so that rows about one picture come together."""
    pending = [row for row in rows if row["id"] not in file.answers]
    if len(pending) < len(rows):
        log.info("%s: %d of %d rows are answered already", file.path, len(rows) - len(pending), len(rows))
    failed_in_a_row = 0
    for start in range(0, len(pending), batch):
        chosen = pending[start : start + batch]
        lines: list[Line] = []
        for line in ask_batch(vlm, task, style, chosen, data):
            file.add([line])
            lines.append(line)
        failed_in_a_row = failed_in_a_row + len(lines) if all("error" in line for line in lines) else 0
        if failed_in_a_row >= HOPELESS:
            raise RowsFailed(f"{failed_in_a_row} rows failed one after the other, last: {lines[-1]['error']}")
        progress(len(rows) - len(pending) + start + len(chosen), len(rows))


def ask_batch(
    vlm: VLM | RemoteModel, task: Task, style: Style, rows: Sequence[Row], data: Path
) -> Iterator[Line]:
    """A line for each row as it is answered; where some fail together each half is tried by itself."""
    opened = lru_cache(maxsize=PICTURES_KEPT)(partial(open_row_picture, data))

    def conversation(row: Row) -> Sequence[Message]:
        return task.conversation(row, opened(row["image"]), style)

    asked, answered = Lazily(conversation, rows), 0
    try:
        if isinstance(vlm, RemoteModel):
            replies = iter(vlm.answers(asked, style.max_tokens))
        else:
            replies = iter(answer_stream(vlm, asked, style.max_tokens))
        for row, reply in zip(rows, replies, strict=True):
            answered += 1
            yield _line(style, row, reply)
        return
    except Exception as error:
        if len(rows) > 1:
            log.warning("a batch failed (%s); each half of what is left is asked by itself", error)
    left = rows[answered:]
    if len(rows) == 1:
        yield ask_alone(vlm, task, style, rows[0], data)
        return
    middle = -(-len(left) // 2)
    for half in (left[:middle], left[middle:]):
        if half:
            yield from ask_batch(vlm, task, style, half, data)


def ask_alone(vlm: VLM | RemoteModel, task: Task, style: Style, row: Row, data: Path) -> Line:
    """The line of one row, with its answer or with what went wrong."""
    try:
        conversation = task.conversation(row, open_row_picture(data, row["image"]), style)
        if isinstance(vlm, RemoteModel):
            return _line(style, row, vlm.answer(conversation, style.max_tokens))
        return _line(style, row, answer_one(vlm, conversation, style.max_tokens))
    except Exception as error:  # whatever it is, the row failed and the file says so
        log.warning("row %s failed: %s", row["id"], error)
        return {"id": row["id"], "question": row["question"], "error": f"{type(error).__name__}: {error}"}


def _line(style: Style, row: Row, reply: Reply) -> Line:
    return {
        "id": row["id"],
        "question": row["question"],
        "prompt": style.text(row),
        "answer": reply.text,
        "boxes": [asdict(box) for box in reply.boxes],
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 4),
    }


def _reply(line: Line) -> Reply:
    return Reply(line["answer"], tuple(Box(**box) for box in line["boxes"]), line["tokens"], line["seconds"])
