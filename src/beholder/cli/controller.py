"""`beholder controller`: the OpenAI API and the web page over workers on many machines."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from beholder.core.errors import ConfigError, MissingExtraError

MOST_PORTS = 65535


def controller(
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=MOST_PORTS, help="Which port.")] = 8000,
    ray_port: Annotated[
        int, typer.Option(min=0, max=MOST_PORTS, help="Which port Ray's head takes; 0: any that is free.")
    ] = 6379,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the plan over restarts; left out, one in the home folder.",
            show_default=False,
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help="A file of keys, one a line; BEHOLDER_API_KEYS may hold more, with commas.",
            show_default=False,
        ),
    ] = None,
    max_inside: Annotated[int, typer.Option(min=1, help="Requests inside at once; more are refused.")] = 4096,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that wait for replicas of one worker; more are refused.")
    ] = 128,
    max_per_client: Annotated[
        int, typer.Option(min=0, help="Requests of one key, or address without keys, at once; 0: no limit.")
    ] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Longest time of an answer, in seconds.")] = 600.0,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_pictures: Annotated[int, typer.Option(min=0, help="Pictures in one request.")] = 16,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest picture.")] = 50.0,
    picture_urls: Annotated[
        bool, typer.Option(help="Whether workers fetch pictures from web addresses.")
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
    web: Annotated[bool, typer.Option(help="Whether there is a web page at /.")] = True,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Take requests for the models that workers serve and bring each to a replica, until a signal ends it."""
    if log_format not in ("text", "json"):
        raise ConfigError(f"--log-format is {log_format!r}; it must be text or json")
    try:
        from beholder.cli.serve import _hosts, _page  # pyright: ignore[reportPrivateUsage]
        from beholder.serving import logs, settings
        from beholder.serving.cluster import controller as running
        from beholder.serving.fetching import FetchLimits
        from beholder.serving.media import MediaPolicy
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("beholder controller", "serve,cluster") from error
    if find_spec("ray") is None:
        raise MissingExtraError.of("beholder controller", "serve,cluster")
    logs.set_up("json" if log_format == "json" else "text")
    fetching = FetchLimits(only_hosts=_hosts(picture_host), trusted_hosts=_hosts(trusted_picture_host))
    chosen = settings.Settings(
        keys=settings.read_keys(api_keys),
        media=MediaPolicy(
            addresses=picture_urls, most_pixels=int(max_megapixels * 1_000_000), fetching=fetching
        ),
        most_running=max_inside,
        most_waiting=max_waiting,
        most_per_client=max_per_client,
        most_pictures=max_pictures,
        most_body_bytes=max_body * 2**20,
        request_seconds=timeout,
    )
    page = _page(host, port) if web else None
    folder = state or running.default_folder()
    if not running.run(host, port, chosen, folder, ray_port=ray_port, page=page):
        raise typer.Exit(1)
