"""`beholder eval`: ask a model every question of a benchmark and write answers and score card."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    from beholder.core.records import RunRecord
    from beholder.evaluation.run import Progress
    from beholder.evaluation.task import Task


def evaluate(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Benchmarks, such as worlds.")],
    model: options.Model = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Holds the data, or a folder named as the benchmark that does; what can be drawn is drawn.",
            show_default="runs/data",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where answers.jsonl and score.json go, in a folder for each benchmark; "
            "what is answered there already is not asked again.",
            show_default="runs/eval/MODEL-HASH",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.", show_default=False)] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows asked at once; 1 asks as `ask` does.")] = 32,
    as_json: options.AsJson = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Score a model on benchmarks. Stopped and started again, it goes on where it was."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(repeated)} is given twice")
    from beholder.evaluation.tasks import find_task

    tasks = [find_task(name) for name in names]

    from beholder.api import BUILT_IN, checkpoint_folder, load
    from beholder.core.records import hash_weights
    from beholder.evaluation.run import run_task

    weights = hash_weights(checkpoint_folder(model))
    folders = [data_folder(task, data or Path("runs/data")) for task in tasks]
    home = out or Path("runs/eval") / f"{Path(model or BUILT_IN).name}-{weights[:8]}"
    vlm = load(model, device=device, dtype=dtype)
    records: dict[str, RunRecord] = {}
    for task, folder in zip(tasks, folders, strict=True):
        target = home / task.name
        records[task.name] = run_task(
            vlm, weights, task, folder, target, batch=batch, limit=limit, progress=counter(task.name)
        )
        print(f"{target}: answers.jsonl, score.json", file=sys.stderr)
    if as_json:
        print(json.dumps({name: asdict(record) for name, record in records.items()}, ensure_ascii=False))
    else:
        print("\n\n".join(table(record) for record in records.values()))


def data_folder(task: Task, data: Path) -> Path:
    """Where a benchmark's data are, in the folder itself or below it; drawn now if they can be."""
    folder = data if (data / task.source).exists() else data / task.name
    if task.draw and not folder.exists():
        print(f"{task.name}: drawing the pictures into {folder}", file=sys.stderr)
    task.prepare(folder)
    return folder


def counter(name: str) -> Progress:
    """Progress on stderr: one line written over and over on a terminal, a line for each tenth elsewhere."""
    is_terminal, told = sys.stderr.isatty(), -1

    def show(answered: int, rows: int) -> None:
        nonlocal told
        text, tenth = f"{name}: {answered} of {rows} rows", 10 * answered // rows
        if is_terminal:
            print(f"\r{text}", end="\n" if answered == rows else "", file=sys.stderr, flush=True)
        elif tenth > told:
            print(text, file=sys.stderr)
        told = tenth

    return show


def table(record: RunRecord) -> str:
    """The figures in percent with their intervals: one line for each, its parts (`figure.part`) beside it."""
    from beholder.evaluation.run import read_figures

    figures = read_figures(record.values)
    names = [name for name in figures if "." not in name]
    parts = list(dict.fromkeys(name.partition(".")[2] for name in figures))  # "" is the whole figure
    lines = [["", *(part or "all" for part in parts)]]
    for name in names:
        cells = (figures.get(f"{name}.{part}" if part else name) for part in parts)
        lines.append(
            [
                name,
                *(f"{100 * f.value:.1f} [{100 * f.low:.1f}, {100 * f.high:.1f}]" if f else "" for f in cells),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    head = f"{record.measure}: {record.subject}, {record.samples} rows; percent with 95 % intervals"
    return "\n".join([head, *rows])
