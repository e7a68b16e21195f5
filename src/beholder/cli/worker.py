"""`beholder worker`: replicas of a model on this machine, for a controller."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli import options, serving_options
from beholder.core.errors import ConfigError, MissingExtraError


def worker(
    controller: Annotated[
        str, typer.Option(help="The controller, as HOST:PORT or http address.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id or folder, or NAME=either; left out, the model in the package.",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        str, typer.Option(help="How many copies, or from how many to how many by the queue, as 1-4.")
    ] = "1",
    gpus: Annotated[
        float, typer.Option(min=0, help="GPUs of each replica; a part of one, as 0.5, too.")
    ] = 0.0,
    cpus: Annotated[
        int, typer.Option(min=0, help="Cores of each replica; 0 shares this machine's among them.")
    ] = 0,
    pin: Annotated[bool, typer.Option(help="Keep each replica to cores of its own.")] = False,
    max_running: Annotated[int, typer.Option(min=1, help="Answers that a replica computes at once.")] = 32,
    update: Annotated[
        bool, typer.Option("--update", help="Replace the model of that name on all workers, one by one.")
    ] = False,
    engine: serving_options.Engine = "beholder",
    vllm_arg: serving_options.VllmArg = None,
    log_format: serving_options.LogFormat = "text",
    base: options.Base = None,
    template: options.Template = None,
    quantize: options.Quantize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Join a controller from this machine and serve a model there, until a signal ends it."""
    low, high = _range(replicas)
    form = serving_options.check_log_format(log_format)
    try:
        from beholder.serving import logs
        from beholder.serving.cluster.plan import Model, named
        from beholder.serving.cluster.worker import Worker
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("beholder worker", "serve,cluster") from error
    from beholder.checkpoints.quantize import check_name

    arguments = serving_options.check_engine(engine, vllm_arg)
    if find_spec("ray") is None:
        raise MissingExtraError.of("beholder worker", "serve,cluster")
    if engine == "vllm" and (base or quantize):
        raise ConfigError(serving_options.NOT_FOR_VLLM)
    name, source = named(model)
    if source is not None and Path(source).expanduser().is_dir():
        source = str(Path(source).expanduser().resolve())  # the replica starts in another folder
    if quantize is not None:
        check_name(quantize)
    wanted = Model(
        name=name, source=source, device=device, dtype=dtype, most_running=max_running, gpus=gpus,
        cpus=cpus or max(1, (os.cpu_count() or 1) // high), pin=pin,
        engine="vllm" if engine == "vllm" else "beholder", arguments=arguments,
        base=base, template=template, quantize=quantize,
    )  # fmt: skip
    logs.set_up(form)
    if not Worker(controller, wanted, low, high, update=update).run():
        raise typer.Exit(1)


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    numbers = (low, high if dash else low)
    if not all(number.isascii() and number.isdigit() and 0 < int(number) <= 1000 for number in numbers):
        raise ConfigError(f"--replicas is {text!r}; give a number from 1 to 1000, or two of them as 1-4")
    if int(numbers[0]) > int(numbers[1]):
        raise ConfigError(f"--replicas is {text!r}; the first number is the smaller one")
    return int(numbers[0]), int(numbers[1])
