"""Runs the application in a process: logs, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType

import uvicorn
from fastapi import FastAPI

from beholder.serving.addresses import is_loopback
from beholder.serving.draining import Draining, configured, warn_if_open
from beholder.serving.sharing import Server

log = logging.getLogger("beholder.serve")


class DrainingServer(Draining):
    """It says how many answers it lets finish, and ends where no model can be served any more."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config, server)
        self.server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.drained_by is None:
            name, inside = signal.Signals(sig).name, self.server.admission.inside
            log.info("%s: %d answers are finished, nothing new is begun", name, inside)
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end now."""
        if self.server.registry.is_lost:
            log.error("no model can be served; the server ends")
            self.should_exit = True
        return await super().on_tick(counter)


def run(app: FastAPI, host: str, port: int) -> bool:
    """Serve until a signal comes; whether it ended as it was told to."""
    server: Server = app.state.server
    warn_if_open(host, server.settings)
    running = DrainingServer(configured(app, host, port), server)
    _run(running)
    return running.started and not server.registry.is_lost


def run_page(app: FastAPI, host: str, port: int, *, has_key: bool) -> bool:
    """Serve the web page alone until a signal comes; whether it ended as it was told to."""
    if not is_loopback(host) and has_key:
        log.warning("anybody who can reach %s asks with the API key that this page was given", host)
    running = uvicorn.Server(configured(app, host, port, patience=2))
    log.info("the web page is at http://%s:%s", host, port)
    _run(running)
    return running.started


def _run(running: uvicorn.Server) -> None:
    """Until it ends, on the event loop that uvicorn prefers of those that are installed."""
    with asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
        runner.run(running.serve())
