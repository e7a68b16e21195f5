"""`beholder controller`: the OpenAI API and the web page over workers on many machines."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli import serving_options
from beholder.core.errors import MissingExtraError


def controller(
    host: serving_options.Host = "127.0.0.1",
    port: serving_options.Port = 8000,
    ray_port: Annotated[
        int,
        typer.Option(
            min=0, max=serving_options.MOST_PORTS, help="Which port Ray's head takes; 0: any that is free."
        ),
    ] = 6379,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the plan over restarts; left out, one in the home folder.",
            show_default=False,
        ),
    ] = None,
    api_keys: serving_options.ApiKeys = None,
    max_inside: Annotated[int, typer.Option(min=1, help="Requests inside at once; more are refused.")] = 4096,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that wait for replicas of one worker; more are refused.")
    ] = 128,
    max_per_client: serving_options.MaxPerClient = 0,
    timeout: serving_options.Timeout = 600.0,
    max_body: serving_options.MaxBody = 64,
    max_pictures: serving_options.MaxPictures = 16,
    max_megapixels: serving_options.MaxMegapixels = 50.0,
    picture_urls: serving_options.PictureUrls = True,
    picture_host: serving_options.PictureHost = None,
    trusted_picture_host: serving_options.TrustedPictureHost = None,
    web: serving_options.Web = True,
    log_format: serving_options.LogFormat = "text",
) -> None:
    """Take requests for the models that workers serve and bring each to a replica, until a signal ends it."""
    form = serving_options.check_log_format(log_format)
    try:
        from beholder.serving import logs
        from beholder.serving.cluster import controller as running
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("beholder controller", "serve,cluster") from error
    if find_spec("ray") is None:
        raise MissingExtraError.of("beholder controller", "serve,cluster")
    logs.set_up(form)
    chosen = serving_options.limits(
        api_keys=api_keys, most_running=max_inside, most_waiting=max_waiting, max_per_client=max_per_client,
        timeout=timeout, max_body=max_body, max_pictures=max_pictures, max_megapixels=max_megapixels,
        picture_urls=picture_urls, picture_host=picture_host, trusted_picture_host=trusted_picture_host,
    )  # fmt: skip
    page = serving_options.page(host, port) if web else None
    folder = state or running.default_folder()
    if not running.run(host, port, chosen, folder, ray_port=ray_port, page=page):
        raise typer.Exit(1)
