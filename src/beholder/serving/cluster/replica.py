"""A replica: the application that `beholder serve` runs, without a socket, and the cores it runs on."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from starlette.types import Message, Scope

from beholder.core.errors import BeholderError
from beholder.serving import logs
from beholder.serving.app import create_app
from beholder.serving.cluster.calls import Call, Parcel
from beholder.serving.cluster.outbox import Outbox
from beholder.serving.cluster.plan import Model
from beholder.serving.registry import Registry, Served
from beholder.serving.settings import Settings

FAILED = "this model cannot be served: "
ENDING_SECONDS = 10.0
EVENTS_PER_SECOND = 64.0  # each costs Ray about a millisecond, more than a token of a small model


class Replica:
    """One copy of a model. Ray Serve makes it, asks it, and ends it."""

    def __init__(self, model: Model, settings: Settings) -> None:
        logs.set_up("text", "WARNING")
        self._locks = take_cores(model.cpus) if model.pin else []
        self._set_threads(model.cpus)
        rate = min(settings.events_per_second, EVENTS_PER_SECOND)
        self.settings = replace(settings, most_running=model.most_running, events_per_second=rate)
        self.served = Served(model.name, model.source)
        self.served.open(lambda source: _load(source, model))
        if self.served.state != "ready":
            # Ray Serve passes the text on, and the controller finds the reason behind the mark.
            raise BeholderError(f"{FAILED}{self.served.reason}")
        self.app = create_app(Registry([self.served]), self.settings)

    def _set_threads(self, cpus: int) -> None:
        import torch

        torch.set_num_threads(cpus)

    def check_health(self) -> None:
        """Ray Serve asks often, and replaces a replica that raises here: one whose vLLM has ended."""
        if not getattr(self.served.vlm and self.served.vlm.engine, "is_alive", True):
            raise BeholderError(f"the engine of model {self.served.name} has ended")

    def describe(self) -> dict[str, Any]:
        """What `/v1/models` tells of the model."""
        return self.served.facts

    def metrics(self) -> tuple[str, bytes]:
        """Which process this is, and what its `/metrics` shows."""
        return f"{os.uname().nodename}:{os.getpid()}", self.app.state.server.metrics.text()

    async def answer(self, call: Call) -> AsyncGenerator[Parcel]:
        """What the application answers: how it begins, then its body as it comes.

        When nobody reads on, the application is told that the client has left, and so ends within a step.
        """
        outbox = Outbox()
        left = asyncio.Event()
        running = asyncio.create_task(self._run(call, outbox, left))
        try:
            while (parcel := await outbox.take()) is not None:
                yield parcel
            await running
        finally:
            left.set()
            if not running.done():
                await asyncio.wait({running}, timeout=ENDING_SECONDS)
                running.cancel()

    async def _run(self, call: Call, outbox: Outbox, left: asyncio.Event) -> None:
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                await left.wait()
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": call.body, "more_body": False}

        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": call.path, "raw_path": call.path.encode(), "query_string": b"",
            "root_path": "", "headers": list(call.headers), "client": (call.client, 0), "server": None,
        }  # fmt: skip
        try:
            await self.app(scope, receive, outbox.put)
        finally:
            outbox.close()

    def __del__(self) -> None:
        # Ray Serve calls this when the last answer is out.
        if served := getattr(self, "served", None):
            if served.vlm is not None:
                served.vlm.close()


def _load(source: str | None, model: Model) -> Any:
    if model.engine == "vllm":
        from beholder.serving.vllm.server import load_on_vllm

        return load_on_vllm(
            source, model.arguments, device=model.device, dtype=model.dtype,
            template=model.template,
        )  # fmt: skip
    from beholder.api import load

    return load(
        source, device=model.device, dtype=model.dtype, base=model.base, template=model.template,
        quantize=model.quantize, most_running=model.most_running,
    )  # fmt: skip


def take_cores(count: int) -> list[IO[str]]:
    """Pin this process to cores that no other replica of this machine has; held until the process ends.

    A lock on a file each is how replicas of one machine agree without anybody who hands cores out.
    """
    folder = Path(tempfile.gettempdir()) / f"beholder-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    cores: list[int] = []
    locks: list[IO[str]] = []
    for core in sorted(os.sched_getaffinity(0)):
        lock = (folder / str(core)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        cores.append(core)
        locks.append(lock)
        if len(cores) == count:
            os.sched_setaffinity(0, cores)
            return locks
    raise BeholderError(
        f"{FAILED}{count} cores are wanted and {len(cores)} are free; lower --cpus or --replicas"
    )
