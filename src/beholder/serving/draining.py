"""How a server of ours runs and ends: what uvicorn is told, who is warned, and answers that may finish."""

from __future__ import annotations

import logging
import time
from types import FrameType
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from beholder.serving.addresses import is_loopback
from beholder.serving.admission import Admission
from beholder.serving.settings import KEYS_VARIABLE, Settings

log = logging.getLogger("beholder.serve")


class Admitting(Protocol):
    """What takes requests: who is inside, and how long an answer may take."""

    admission: Admission
    settings: Settings


class Draining(uvicorn.Server):
    """A signal lets running answers finish, while new ones get 503; a second one ends at once."""

    def __init__(self, config: uvicorn.Config, subject: Admitting) -> None:
        super().__init__(config)
        self.subject = subject
        self.drained_by: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self.drained_by is not None:
            self.force_exit = self.should_exit = True
            return
        self.subject.admission.is_draining = True
        self.drained_by = time.monotonic() + self.subject.settings.request_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end now."""
        if self.drained_by is not None:
            self.should_exit |= not self.subject.admission.inside or time.monotonic() > self.drained_by
        return await super().on_tick(counter)


def configured(app: FastAPI, host: str, port: int, *, patience: int = 10) -> uvicorn.Config:
    """The app on an address; `patience` is how many seconds connections have to close at the end."""
    return uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, server_header=False, lifespan="on",
        timeout_graceful_shutdown=patience,
    )  # fmt: skip


def warn_if_open(host: str, settings: Settings) -> None:
    """Say so where others can reach a server that asks for no key."""
    if not is_loopback(host) and not settings.keys:
        log.warning(
            "anybody who can reach %s may use this server: give it API keys (--api-keys FILE or %s)",
            host, KEYS_VARIABLE,
        )  # fmt: skip
