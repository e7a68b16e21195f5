"""`beholder bench`: how fast a model answers on this machine, beside transformers in the same run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    from beholder.core.records import RunRecord

GIB = 2**30


def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="Hub id or folder; left out, the model in the package.", show_default=False),
    ] = None,
    figures: Annotated[
        str,
        typer.Option(
            help="Which, with commas: first, decode, batch, concurrent, overhead, preprocessing, memory, "
            "startup; left out, all."
        ),
    ] = "",
    random: Annotated[
        str | None,
        typer.Option(
            help="Instead of a model one of this size with random weights, such as llava-1.1b; "
            "it is removed afterwards.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="With --random: at most so many layers.", show_default=False)
    ] = None,
    peer: Annotated[bool, typer.Option(help="Whether transformers' generate runs beside.")] = True,
    repeats: Annotated[int, typer.Option(min=1, help="Runs whose median counts.")] = 5,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the decode figures.")] = 32,
    requests: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    shortest: Annotated[int, typer.Option(min=1, help="Shortest answer of those requests.")] = 16,
    longest: Annotated[int, typer.Option(min=1, help="Longest answer of those requests.")] = 256,
    growth: Annotated[int, typer.Option(min=1, help="Requests to see whether memory grows.")] = 200,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the engine and the peer.", show_default=False)
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, help="Prompt tokens in a step while answers stream.", show_default=False),
    ] = None,
    packed_memory: Annotated[
        float | None,
        typer.Option(help="GiB for second copies of weights; 0 for none.", show_default=False),
    ] = None,
    compile: Annotated[
        str | None, typer.Option(help="Compile decode: reduce-overhead, ...", show_default=False)
    ] = None,
    native: Annotated[
        str | None,
        typer.Option(help="Native decode: auto, off, or a format such as int8.", show_default=False),
    ] = None,
    kv_dtype: options.KvDtype = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the record to this file.", show_default=False)
    ] = None,
    as_json: options.AsJson = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Measure first token, decode, batches, the engine's own time, pictures, memory and start-up."""
    if shortest > longest:
        raise ConfigError(f"--shortest {shortest} is above --longest {longest}")
    from beholder.benchmarking.answering import Plan
    from beholder.benchmarking.run import chosen

    names = chosen([name.strip() for name in figures.split(",") if name.strip()])
    plan = Plan(
        repeats=repeats, tokens=tokens, requests=requests, shortest=shortest, longest=longest, growth=growth
    )
    packed = None if packed_memory is None else int(packed_memory * GIB)
    way = False if native == "off" else native
    given = {"threads": threads, "chunk": chunk, "packed_memory": packed, "native": way, "compile": compile}
    given["kv_dtype"] = options.check_kv_dtype(kv_dtype)
    loading: dict[str, Any] = {"device": device, "dtype": dtype}
    loading |= {name: value for name, value in given.items() if value is not None}
    with source(model, random, layers) as (place, subject):
        record = measure(place, subject, plan, names, peer, loading)
    if out is not None:
        print(f"record: {record.write(out)}", file=sys.stderr)
    print(record.to_json() if as_json else table(record))


@contextmanager
def source(model: str | None, random: str | None, layers: int | None) -> Generator[tuple[str, str]]:
    """What to load (empty: the built-in model) and what it is called in the record."""
    if random is None:
        if layers is not None:
            raise ConfigError("--layers belongs to --random; a model is measured with all its layers")
        yield model or "", model or "beholder-mini"
        return
    if model is not None:
        raise ConfigError(f"measure either {model} or --random {random}")
    from beholder.families.random_weights import write_random

    with tempfile.TemporaryDirectory(prefix="beholder-bench-") as folder:
        made = write_random(random, Path(folder) / random, layers=layers)
        few = "" if layers is None else f", {layers} layers"
        yield str(made.folder), f"random {random}{few}"


def measure(
    place: str, subject: str, plan: Any, names: tuple[str, ...], with_peer: bool, loading: dict[str, Any]
) -> RunRecord:
    """Load the model and run the figures."""
    import torch

    from beholder.api import checkpoint_folder, load
    from beholder.benchmarking.run import run
    from beholder.core.records import hash_weights

    if threads := loading.get("threads"):
        torch.set_num_threads(threads)
    vlm = load(place or None, **loading)
    try:
        weights = hash_weights(checkpoint_folder(place or None))
        return run(
            vlm, plan, names, subject=subject, weights=weights, with_peer=with_peer, source=place,
            loading=loading,
        )  # fmt: skip
    finally:
        vlm.close()


def table(record: RunRecord) -> str:
    """One line for each value, and what they hang on."""
    width = max(map(len, record.values))
    rows = [f"{name:>{width}}  {shown(value)}" for name, value in record.values.items()]
    told = record.settings
    head = [str(told[name]) for name in ("dtype", "device")]
    head = [record.subject, f"{told['layers']} layers", *head, f"{told['threads']} threads"]
    return "\n".join([", ".join(head), f"peer: {told['peer']}", record.machine, "", *rows])


def shown(value: float) -> str:
    """Whole numbers as they are, others with as many digits as mean something."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
