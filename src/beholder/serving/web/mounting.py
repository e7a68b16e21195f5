"""The page as an ASGI application, for `beholder serve` and for `beholder web`."""

from __future__ import annotations

import ipaddress
from importlib import resources
from typing import Any

from fastapi import FastAPI

from beholder.serving.media import MediaPolicy
from beholder.serving.web.client import Client


def page_app(client: Client) -> FastAPI:
    """The page over an API. It loads nothing from elsewhere, reports to nobody and keeps no history."""
    # Here and not above: Gradio takes seconds to import, and a server without a page must not wait for it.
    import gradio
    from gradio.themes import Font, Soft

    from beholder.serving.web.page import Page

    page = Page(client)
    app = FastAPI(openapi_url=None)
    app.state.page = page
    fonts = [Font(name) for name in ("system-ui", "sans-serif")]
    mono = [Font(name) for name in ("ui-monospace", "monospace")]
    mount: Any = gradio.mount_gradio_app  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    mount(
        app,
        page.blocks,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=MediaPolicy().fetching.most_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=Soft(font=fonts, font_mono=mono),
        css=resources.files("beholder.serving.web").joinpath("style.css").read_text("utf-8"),
    )
    return app


def own_address(host: str, port: int) -> str:
    """Where a server that listens there reaches itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/v1"
    if address.is_unspecified:
        return f"http://127.0.0.1:{port}/v1" if address.version == 4 else f"http://[::1]:{port}/v1"
    return f"http://{host}:{port}/v1" if address.version == 4 else f"http://[{host}]:{port}/v1"
