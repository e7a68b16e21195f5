"""`beholder serve`: models behind the OpenAI API, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from beholder.api import VLM

MOST_PORTS = 65535


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Hub ids or folders, or NAME=either; left out, the model in the package.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=MOST_PORTS, help="Which port.")] = 8000,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help="A file of keys, one a line; BEHOLDER_API_KEYS may hold more, with commas.",
            show_default=False,
        ),
    ] = None,
    max_running: Annotated[int, typer.Option(min=1, help="Answers computed at once.")] = 32,
    max_waiting: Annotated[int, typer.Option(min=0, help="Answers that wait; more are refused.")] = 128,
    max_per_client: Annotated[
        int, typer.Option(min=0, help="Answers of one key, or address without keys, at once; 0: no limit.")
    ] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Longest time of an answer, in seconds.")] = 600.0,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_pictures: Annotated[int, typer.Option(min=0, help="Pictures in one request.")] = 16,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest picture.")] = 50.0,
    picture_urls: Annotated[
        bool, typer.Option(help="Whether pictures are fetched from web addresses.")
    ] = True,
    picture_host: Annotated[
        list[str] | None,
        typer.Option(help="Fetch pictures only from this host; may be given again.", show_default=False),
    ] = None,
    trusted_picture_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Fetch from this host although it is in a private network; may be given again.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="beholder, or vllm for the language model (Llama kinds; needs vLLM).")
    ] = "beholder",
    vllm_arg: Annotated[
        list[str] | None,
        typer.Option(
            help="An argument of vLLM's server, as tensor-parallel-size=8; may be given again.",
            show_default=False,
        ),
    ] = None,
    web: Annotated[bool, typer.Option(help="Whether there is a web page at /.")] = True,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Serve models over the OpenAI API, with a web page, until a signal ends it."""
    if log_format not in ("text", "json"):
        raise ConfigError(f"--log-format is {log_format!r}; it must be text or json")
    try:
        from beholder.serving import app, logs, server, settings
        from beholder.serving.fetching import FetchLimits
        from beholder.serving.media import MediaPolicy
        from beholder.serving.registry import Registry
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("beholder serve", "serve") from error
    arguments = check_engine(engine, vllm_arg)
    logs.set_up("json" if log_format == "json" else "text")
    fetching = FetchLimits(only_hosts=_hosts(picture_host), trusted_hosts=_hosts(trusted_picture_host))
    chosen = settings.Settings(
        keys=settings.read_keys(api_keys),
        media=MediaPolicy(
            addresses=picture_urls, most_pixels=int(max_megapixels * 1_000_000), fetching=fetching
        ),
        most_running=max_running,
        most_waiting=max_waiting,
        most_per_client=max_per_client,
        most_pictures=max_pictures,
        most_body_bytes=max_body * 2**20,
        request_seconds=timeout,
    )
    registry = Registry.of(models or [])
    page = _page(host, port) if web else None
    application = app.create_app(
        registry,
        chosen,
        lambda source: _load(source, device, dtype, max_running, engine, arguments),
        page=page,
    )
    if not server.run(application, host, port):
        raise typer.Exit(1)


def check_engine(engine: str, given: list[str] | None) -> tuple[str, ...]:
    """The arguments for vLLM; an error if the engine or one of them cannot be."""
    if engine not in ("beholder", "vllm"):
        raise ConfigError(f"--engine is {engine!r}; it must be beholder or vllm")
    if engine == "beholder":
        if given:
            raise ConfigError("--vllm-arg is for --engine vllm")
        return ()
    from beholder.serving.vllm.server import read_arguments, vllm_python

    vllm_python()
    return read_arguments(given or ())


def _load(
    source: str | None, device: str, dtype: str, most_running: int, engine: str, arguments: tuple[str, ...]
) -> VLM:
    if engine == "vllm":
        from beholder.serving.vllm.server import load_on_vllm

        return load_on_vllm(source, arguments, device=device, dtype=dtype)
    from beholder.api import load

    return load(source, device=device, dtype=dtype, most_running=most_running)


def _page(host: str, port: int) -> FastAPI:
    """The web page over the server that is about to start."""
    try:
        from beholder.serving.web.client import Client
        from beholder.serving.web.mounting import own_address, page_app

        return page_app(Client.of(own_address(host, port)))
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("the web page (left out with --no-web)", "serve") from error


def _hosts(given: list[str] | None) -> tuple[str, ...]:
    return tuple(host.lower() for host in given or [])
