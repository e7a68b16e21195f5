"""`beholder web`: the web page over any OpenAI-compatible server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from beholder.cli import serving_options
from beholder.core.errors import MissingExtraError

KEY_VARIABLE = "BEHOLDER_API_KEY"


def web(
    api: Annotated[
        str,
        typer.Option(help="The server's address, such as http://127.0.0.1:8000/v1.", show_default=False),
    ],
    host: serving_options.Host = "127.0.0.1",
    port: serving_options.Port = 7860,
) -> None:
    """Show the web page over a server with OpenAI's API; its key, if any, is read from BEHOLDER_API_KEY."""
    try:
        from beholder.serving import logs, server
        from beholder.serving.web.client import Client
        from beholder.serving.web.mounting import page_app

        client = Client.of(api, os.environ.get(KEY_VARIABLE, ""))
        logs.set_up("text")
        application = page_app(client)
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("beholder web", "serve") from error
    if not server.run_page(application, host, port, has_key=bool(client.key)):
        raise typer.Exit(1)
