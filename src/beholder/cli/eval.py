"""`beholder eval`: ask a model every question of a benchmark, or score answers that are there already."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    from beholder.api import VLM
    from beholder.core.records import RunRecord
    from beholder.evaluation.judge import Judge
    from beholder.evaluation.remote import RemoteModel
    from beholder.evaluation.run import Progress
    from beholder.evaluation.task import Task

PUBLISHED = "published"
CHECK_DID_NOT_HOLD = 3
# Rows asked at once: the engine takes up the next as one is done, and only at the end of so many it runs dry.
ROWS = 256
ROWS_OF_A_SERVER = 32  # which batches what comes, but need not hold as many connections


def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Benchmarks, such as worlds, or a .jsonl file of your own."),
    ] = None,
    model: options.Model = None,
    base: options.Base = None,
    quantize: options.Quantize = None,
    kv_dtype: options.KvDtype = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Holds the data, or a folder named as the benchmark that does; drawn or fetched if needed.",
            show_default="runs/data",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where answers.jsonl, score.json and report.html go, in a folder for each benchmark; "
            "what is answered there already is not asked again.",
            show_default="runs/eval/MODEL-HASH",
        ),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Score this file of answers; no model is asked.", show_default=False)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict-metric", help="Score without the oddities of the original scorers.")
    ] = False,
    judge: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server of the judge.", show_default=False)
    ] = None,
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")] = "gpt-4-0613",
    api: Annotated[
        str | None,
        typer.Option(help="Ask the model of this OpenAI-compatible server; --model is its name there."),
    ] = None,
    style: Annotated[
        str,
        typer.Option(
            help="The family whose original decides how is asked, such as llava; plain: as they stand.",
            show_default="the model's own family",
        ),
    ] = "",
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Two folders of runs (give it twice), or published.", show_default=False),
    ] = None,
    published_as: Annotated[
        str | None,
        typer.Option(help="With --compare published: the model's name in the tables.", show_default=False),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: ask only part i (from 0) of n; torchrun sets it.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.", show_default=False)] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows asked at once; 1 asks as `ask` does.", show_default="256; 32 of a server"
        ),
    ] = None,
    as_json: options.AsJson = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Score a model on benchmarks. Stopped and started again, it goes on where it was."""
    chosen = compare or []
    if chosen and chosen != [PUBLISHED]:
        return compare_runs(names or [], chosen, as_json)
    if not names:
        raise ConfigError("name a benchmark, such as worlds, or two runs with --compare A --compare B")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(repeated)} is given twice")
    from beholder.evaluation.tasks import find_task

    tasks = [find_task(name) for name in names]
    if answers and len(tasks) > 1:
        raise ConfigError("--answers belongs to one benchmark; name only one")
    if published_as and not chosen:
        raise ConfigError(f"--published-as belongs to --compare {PUBLISHED}, which is not given")
    loading = {"--base": base, "--quantize": quantize, "--kv-dtype": kv_dtype}
    if (answers or api) and (given := [name for name, value in loading.items() if value]):
        told = "with --answers none is" if answers else f"the model is opened by the server at {api}"
        raise ConfigError(f"{', '.join(given)} tells how a model is opened, but {told}")
    origin = options.origin(base, None, quantize, kv_dtype=kv_dtype)
    asking = {"--api": api, "--style": style, "--shard": shard, "--limit": limit, "--batch": batch}
    if answers and (given := [name for name, value in asking.items() if value]):
        raise ConfigError(f"{', '.join(given)} tells how a model is asked, but with --answers none is")
    if out and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    asker = make_judge(judge, judge_model, out or Path("runs/eval"))
    if answers:
        records = score_file(tasks[0], answers, data, out, model, strict, asker)
    else:
        rows = batch or (ROWS_OF_A_SERVER if api else ROWS)
        settings: dict[str, object] = {"strict": strict, "judge": asker, "limit": limit, "batch": rows}
        settings["asked_as"] = known_style(style)
        where = {"device": device, "dtype": dtype, **origin}
        records = ask_model(tasks, model, data, out, api, style, shard, settings, where)
    if records:  # of a part there are none, unless it was the last to end
        show(records, as_json, published_as, bool(chosen))


def make_judge(url: str | None, name: str, home: Path) -> Judge | None:
    """The judge, whose replies are kept beside the runs; none where no server is named."""
    if url is None:
        return None
    from beholder.evaluation.endpoint import Endpoint
    from beholder.evaluation.judge import Judge

    return Judge(Endpoint(url), name, home / "judge")


def score_file(
    task: Task, answers: Path, data: Path | None, out: Path | None, subject: str | None, strict: bool,
    judge: Judge | None,
) -> dict[str, RunRecord]:  # fmt: skip
    """The score card of answers made elsewhere."""
    from beholder.core.errors import InputError
    from beholder.evaluation.scoring import score_answers

    if not answers.exists():
        raise InputError(f"there is no file {answers}")
    folder = data_folder(task, data, is_asked=False)
    target = (out or Path("runs/eval") / answers.stem) / task.name
    try:
        record = score_answers(task, answers, folder, target, subject=subject, strict=strict, judge=judge)
    finally:
        tell(task, folder, target)
    return {task.name: record}


def ask_model(
    tasks: list[Task], model: str | None, data: Path | None, out: Path | None, api: str | None, style: str,
    shard: str | None, settings: dict[str, object], where: dict[str, str],
) -> dict[str, RunRecord]:  # fmt: skip
    """Score cards of a model, each written as soon as its benchmark is done."""
    from beholder.evaluation.shards import Shard

    part = Shard.read(shard) if shard else Shard.of_environment()
    server = remote(api, model, style) if api else None
    folders = [data_folder(task, data) for task in tasks]
    from beholder.evaluation.run import run_task  # torch loads here: not for nothing, the data are there

    vlm, weights, home = server or local(model, where | device_of_rank(where["device"]))
    records: dict[str, RunRecord] = {}
    for task, folder in zip(tasks, folders, strict=True):
        target = (out or home) / task.name
        try:
            record = run_task(
                vlm,
                weights,
                task,
                folder,
                target,
                shard=part,
                progress=counter(task.name),
                **settings,  # type: ignore[arg-type]
            )
        finally:
            if part is None:
                tell(task, folder, target)
        if record is None and part:
            told = f"part {part.index} of {part.count} is done; the last to end writes the score"
            print(f"{target}: {told}", file=sys.stderr)
        elif record:
            if part:  # one process alone: the others would write over each other
                tell(task, folder, target)
            records[task.name] = record
    return records


def local(model: str | None, where: dict[str, str]) -> tuple[VLM, str, Path]:
    """A model in this process, the hash of its weights, and where its runs go."""
    from beholder.api import BUILT_IN, checkpoint_folder, load
    from beholder.core.records import hash_weights

    weights = hash_weights(checkpoint_folder(model))
    rounded = [where[name] for name in ("quantize", "kv_dtype") if name in where]
    home = Path("runs/eval") / "-".join([Path(model or BUILT_IN).name, weights[:8], *rounded])
    return load(model, **where), weights, home


def device_of_rank(device: str) -> dict[str, str]:
    """Under torchrun each process of a machine has a GPU of its own, unless a device is named."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or device != "auto":
        return {}
    from beholder.core.device import available_devices

    return {"device": f"cuda:{rank}"} if available_devices()[0].startswith("cuda") else {}


def known_style(name: str) -> str:
    """A style that exists, or none."""
    from beholder.evaluation.task import PLAIN
    from beholder.families import FAMILIES

    if name and name not in (*FAMILIES, PLAIN):
        raise ConfigError(f"--style {name!r} is no family; known: {', '.join(FAMILIES)}, {PLAIN}")
    return name


def remote(url: str, model: str | None, style: str) -> tuple[RemoteModel, str, Path]:
    """A model behind a server; its weights are not known."""
    from beholder.evaluation.endpoint import Endpoint
    from beholder.evaluation.remote import RemoteModel

    if not model:
        raise ConfigError("--api needs --model, the model's name at that server")
    return RemoteModel(Endpoint(url), model, style), "", Path("runs/eval") / f"api-{Path(model).name}"


def data_folder(task: Task, data: Path | None, is_asked: bool = True) -> Path:
    """Where a benchmark's data are, in the folder itself or below it; drawn or fetched now if they can be."""
    given = data or task.home or Path("runs/data")
    folder = given if task.find_source(given) else given / task.name
    if task.draw and not folder.exists():
        print(f"{task.name}: drawing the pictures into {folder}", file=sys.stderr)
    if task.fetch and not task.find_source(folder):
        print(f"{task.name}: fetching the data from the hub into {folder}", file=sys.stderr)
    task.prepare(folder, is_asked)
    return folder


def tell(task: Task, data: Path, target: Path) -> None:
    """Write the page about what is there, and say what was written."""
    from beholder.core.records import RunRecord
    from beholder.evaluation.answers import read_whole_lines
    from beholder.evaluation.report import write_report

    answers, score = target / "answers.jsonl", target / "score.json"
    if not answers.exists():
        return
    rows = {row["id"]: row for row in task.load(data)}
    record = RunRecord.read(score) if score.exists() else None
    write_report(target / "report.html", read_whole_lines(answers), rows, data, record)
    print(f"{target}: {', '.join(sorted(p.name for p in target.iterdir() if p.is_file()))}", file=sys.stderr)


def show(records: dict[str, RunRecord], as_json: bool, published_as: str | None, published: bool) -> None:
    """Print the score cards, and beside them what was published."""
    from beholder.evaluation.cards import table
    from beholder.evaluation.compare import compare_published

    found = {name: compare_published(r, published_as) if published else [] for name, r in records.items()}
    if as_json:
        told = {name: asdict(record) for name, record in records.items()}
        if published:
            told = {"records": told, "published": [asdict(one) for ones in found.values() for one in ones]}
        print(json.dumps(told, ensure_ascii=False))
    else:
        blocks = ["\n".join([table(record), *map(str, found[name])]) for name, record in records.items()]
        print("\n\n".join(blocks))
    if published and not any(found.values()):
        print("nothing is published for this model; name one with --published-as", file=sys.stderr)
    if any(not one.is_within for ones in found.values() for one in ones):
        raise typer.Exit(CHECK_DID_NOT_HOLD)


def compare_runs(names: list[str], runs: list[str], as_json: bool) -> None:
    """Print the paired test of two runs."""
    # `--compare A B` leaves B among the names.
    paths = [*runs, *names]
    if len(paths) != 2:
        raise ConfigError(f"--compare takes two runs or {PUBLISHED}, not {len(paths)}: {', '.join(paths)}")
    from beholder.evaluation.compare import compare, comparison_text

    told = compare(Path(paths[0]), Path(paths[1]))
    print(json.dumps(told.to_json()) if as_json else comparison_text(told, paths[0], paths[1]))


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
