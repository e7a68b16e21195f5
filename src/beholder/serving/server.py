"""Runs the application in a process: logs, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from beholder.serving.completing import Server
from beholder.serving.settings import KEYS_VARIABLE

log = logging.getLogger("beholder.serve")


class DrainingServer(uvicorn.Server):
    """A signal lets running answers finish, while new ones get 503; a second one ends at once."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.server = server
        self.drained_by: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.drained_by is not None:
            self.force_exit = self.should_exit = True
            return
        name, inside = signal.Signals(sig).name, self.server.admission.inside
        log.info("%s: %d answers are finished, nothing new is begun", name, inside)
        self.server.admission.is_draining = True
        self.drained_by = time.monotonic() + self.server.settings.request_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end now."""
        if self.drained_by is not None:
            self.should_exit |= not self.server.admission.inside or time.monotonic() > self.drained_by
        if self.server.registry.is_lost:
            log.error("no model can be served; the server ends")
            self.should_exit = True
        return await super().on_tick(counter)


def run(app: FastAPI, host: str, port: int) -> bool:
    """Serve until a signal comes; whether it ended as it was told to."""
    server: Server = app.state.server
    if not is_loopback(host) and not server.settings.keys:
        log.warning(
            "anybody who can reach %s may use this server: give it API keys (--api-keys FILE or %s)",
            host, KEYS_VARIABLE,
        )  # fmt: skip
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=10,
    )
    running = DrainingServer(config, server)
    asyncio.run(running.serve())
    return running.started and not server.registry.is_lost


def run_page(app: FastAPI, host: str, port: int, *, has_key: bool) -> bool:
    """Serve the web page alone until a signal comes; whether it ended as it was told to."""
    if not is_loopback(host) and has_key:
        log.warning("anybody who can reach %s asks with the API key that this page was given", host)
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, server_header=False, lifespan="on",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    running = uvicorn.Server(config)
    log.info("the web page is at http://%s:%s", host, port)
    asyncio.run(running.serve())
    return running.started


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
