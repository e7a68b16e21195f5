"""`beholder serve`: models behind the OpenAI API, in one process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options, serving_options
from beholder.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from beholder.api import VLM


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Hub ids or folders, or NAME=either; left out, the model in the package.",
            show_default=False,
        ),
    ] = None,
    host: serving_options.Host = "127.0.0.1",
    port: serving_options.Port = 8000,
    api_keys: serving_options.ApiKeys = None,
    max_running: Annotated[int, typer.Option(min=1, help="Answers computed at once.")] = 32,
    max_waiting: Annotated[int, typer.Option(min=0, help="Answers that wait; more are refused.")] = 128,
    max_per_client: serving_options.MaxPerClient = 0,
    timeout: serving_options.Timeout = 600.0,
    max_body: serving_options.MaxBody = 64,
    max_pictures: serving_options.MaxPictures = 16,
    max_megapixels: serving_options.MaxMegapixels = 50.0,
    picture_urls: serving_options.PictureUrls = True,
    picture_host: serving_options.PictureHost = None,
    trusted_picture_host: serving_options.TrustedPictureHost = None,
    engine: serving_options.Engine = "beholder",
    vllm_arg: serving_options.VllmArg = None,
    web: serving_options.Web = True,
    log_format: serving_options.LogFormat = "text",
    base: options.Base = None,
    template: options.Template = None,
    quantize: options.Quantize = None,
    kv_dtype: options.KvDtype = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Serve models over the OpenAI API, with a web page, until a signal ends it."""
    form = serving_options.check_log_format(log_format)
    if len(models or []) > 1 and (base or template):
        raise ConfigError(
            f"--base and --template are for one model and {len(models or [])} were given; serve it alone"
        )
    try:
        from beholder.serving import app, logs, server
        from beholder.serving.registry import Registry
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("beholder serve", "serve") from error
    arguments = serving_options.check_engine(engine, vllm_arg)
    origin = options.origin(base, template, quantize, kv_dtype=kv_dtype)
    logs.set_up(form)
    chosen = serving_options.limits(
        api_keys=api_keys, most_running=max_running, most_waiting=max_waiting, max_per_client=max_per_client,
        timeout=timeout, max_body=max_body, max_pictures=max_pictures, max_megapixels=max_megapixels,
        picture_urls=picture_urls, picture_host=picture_host, trusted_picture_host=trusted_picture_host,
    )  # fmt: skip
    if engine == "vllm":
        if kv_dtype:
            raise ConfigError(serving_options.KV_NOT_FOR_VLLM)
        if base or quantize:
            raise ConfigError(serving_options.NOT_FOR_VLLM)
        opener = partial(_load_on_vllm, device, dtype, template, arguments)
    else:
        opener = partial(_load, device, dtype, max_running, origin)
    registry = Registry.of(models or [])
    page = serving_options.page(host, port) if web else None
    application = app.create_app(registry, chosen, opener, page=page)
    if not server.run(application, host, port):
        raise typer.Exit(1)


def _load(device: str, dtype: str, most_running: int, origin: dict[str, str], source: str | None) -> VLM:
    from beholder.api import load

    return load(source, device=device, dtype=dtype, most_running=most_running, **origin)


def _load_on_vllm(
    device: str, dtype: str, template: str | None, arguments: tuple[str, ...], source: str | None
) -> VLM:
    from beholder.serving.vllm.server import load_on_vllm

    return load_on_vllm(source, arguments, device=device, dtype=dtype, template=template)
