"""Run as a program: a server with the web page, over the built-in model and two scripted ones."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from tests.fake_vlm import FakeVLM

import beholder
from beholder.serving.app import create_app
from beholder.serving.registry import Registry, Served
from beholder.serving.settings import Settings
from beholder.serving.web.client import Client
from beholder.serving.web.mounting import own_address, page_app


def main(port: int) -> None:
    """Serve until killed."""

    def load(source: str | None):
        return beholder.load(device="cpu") if source is None else FakeVLM()

    served = [Served("beholder-mini", None), Served("fake", "fake"), Served("other", "fake")]
    app = create_app(Registry(served), Settings(), load, page_app(Client.of(own_address("127.0.0.1", port))))  # pyright: ignore[reportArgumentType]
    config = uvicorn.Config(app, port=port, log_level="warning")
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main(int(sys.argv[1]))
