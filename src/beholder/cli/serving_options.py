"""Arguments that the serving verbs share, and what they make of them: the page, the limits, the engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from beholder.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from beholder.serving.settings import Settings

MOST_PORTS = 65535
NOT_FOR_VLLM = "--base and --quantize are not for --engine vllm; merge or convert the model before"
KV_NOT_FOR_VLLM = "--kv-dtype is not for --engine vllm, which has --vllm-arg kv-cache-dtype=fp8"

Host = Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is every network.")]
Port = Annotated[int, typer.Option(min=1, max=MOST_PORTS, help="Which port.")]
ApiKeys = Annotated[
    Path | None,
    typer.Option(
        help="A file of keys, one a line; BEHOLDER_API_KEYS may hold more, with commas.",
        show_default=False,
    ),
]
MaxPerClient = Annotated[
    int, typer.Option(min=0, help="Answers of one key, or address without keys, at once; 0: no limit.")
]
Timeout = Annotated[float, typer.Option(min=1, help="Longest time of an answer, in seconds.")]
MaxBody = Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")]
MaxPictures = Annotated[int, typer.Option(min=0, help="Pictures in one request.")]
MaxMegapixels = Annotated[float, typer.Option(min=0.001, help="Largest picture.")]
PictureUrls = Annotated[bool, typer.Option(help="Whether pictures are fetched from web addresses.")]
PictureHost = Annotated[
    list[str] | None,
    typer.Option(help="Fetch pictures only from this host; may be given again.", show_default=False),
]
TrustedPictureHost = Annotated[
    list[str] | None,
    typer.Option(
        help="Fetch from this host although it is in a private network; may be given again.",
        show_default=False,
    ),
]
Engine = Annotated[
    str, typer.Option(help="beholder, or vllm for the language model (Llama kinds; needs vLLM).")
]
VllmArg = Annotated[
    list[str] | None,
    typer.Option(
        help="An argument of vLLM's server, as tensor-parallel-size=8; may be given again.",
        show_default=False,
    ),
]
Web = Annotated[bool, typer.Option(help="Whether there is a web page at /.")]
LogFormat = Annotated[str, typer.Option(help="text or json.")]


def check_log_format(given: str) -> Literal["text", "json"]:
    """`given`, if it is one of the two."""
    if given == "text" or given == "json":
        return given
    raise ConfigError(f"--log-format is {given!r}; it must be text or json")


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


def limits(
    *, api_keys: Path | None, most_running: int, most_waiting: int, max_per_client: int, timeout: float,
    max_body: int, max_pictures: int, max_megapixels: float, picture_urls: bool,
    picture_host: list[str] | None, trusted_picture_host: list[str] | None,
) -> Settings:  # fmt: skip
    """What a server allows, from what was given for it."""
    from beholder.serving.fetching import FetchLimits
    from beholder.serving.media import MediaPolicy
    from beholder.serving.settings import Settings, read_keys

    fetching = FetchLimits(only_hosts=_hosts(picture_host), trusted_hosts=_hosts(trusted_picture_host))
    return Settings(
        keys=read_keys(api_keys),
        media=MediaPolicy(
            addresses=picture_urls, most_pixels=int(max_megapixels * 1_000_000), fetching=fetching
        ),
        most_running=most_running,
        most_waiting=most_waiting,
        most_per_client=max_per_client,
        most_pictures=max_pictures,
        most_body_bytes=max_body * 2**20,
        request_seconds=timeout,
    )


def page(host: str, port: int) -> FastAPI:
    """The web page over the server that is about to start."""
    try:
        from beholder.serving.web.client import Client
        from beholder.serving.web.mounting import own_address, page_app

        return page_app(Client.of(own_address(host, port)))
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("the web page (left out with --no-web)", "serve") from error


def _hosts(given: list[str] | None) -> tuple[str, ...]:
    return tuple(host.lower() for host in given or [])
