"""`beholder controller` as a process: the Ray head beside it, the ingress within it, and their end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fastapi import FastAPI

from beholder.core.errors import BeholderError, ConfigError
from beholder.serving.addresses import is_loopback
from beholder.serving.cluster.ingress import create_ingress
from beholder.serving.cluster.node import ENVIRONMENT, Node, free_port, head, own_address
from beholder.serving.cluster.plan import Plan
from beholder.serving.draining import Draining, configured, warn_if_open
from beholder.serving.settings import Settings

if TYPE_CHECKING:
    from beholder.serving.cluster.fleet import Fleet

log = logging.getLogger("beholder.serve")

END_SECONDS = 15.0
TRIES = 3


@dataclass(frozen=True)
class Head:
    """Ray's head, as a file remembers it: where it is, what the cluster is called, and its process."""

    address: str
    session: str
    pid: int
    born: str
    node: Node | None = None

    @classmethod
    def start_or_join(cls, folder: Path, address: str, port: int) -> Head:
        """The head that an earlier controller of this folder left running, or else a new one."""
        file = folder / "head.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_text("utf-8"))
            found = cls(told["address"], told["session"], told["pid"], told["born"])
            if _born(found.pid) == found.born:
                log.info("the Ray head at %s is still there and is joined", found.address)
                return found
        node = _started(address, port)
        where = next(one for one in node.arguments if one.startswith("--port=")).removeprefix("--port=")
        made = cls(f"{address}:{where}", uuid.uuid4().hex, node.process.pid, _born(node.process.pid), node)
        told = {"address": made.address, "session": made.session, "pid": made.pid, "born": made.born}
        file.write_text(json.dumps(told), "utf-8")
        return made

    def stop(self, folder: Path) -> None:
        """End it, and with it the cluster."""
        (folder / "head.json").unlink(missing_ok=True)
        if self.node is not None:
            self.node.stop()
            return
        until = time.monotonic() + END_SECONDS
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                if _born(self.pid) == self.born:
                    os.killpg(self.pid, sent)
            while _born(self.pid) == self.born and time.monotonic() < until:
                time.sleep(0.1)


def _started(address: str, port: int) -> Node:
    """A new head. Ray gives itself 30 seconds, which a busy machine may exceed, so it gets more tries."""
    for tries_left in reversed(range(TRIES)):
        node = head(address, port or free_port())
        try:
            node.wait()
            return node
        except BeholderError as error:
            if not tries_left:
                raise
            log.warning("%s; once more", error)
    raise AssertionError


def _born(pid: int) -> str:
    """When a process began, so that no other one is taken for it; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def run(
    host: str, port: int, settings: Settings, folder: Path, *, ray_port: int = 0, page: FastAPI | None = None
) -> bool:
    """Start or join the head and take requests until a signal comes; whether it ended as it was told to."""
    warn_if_open(host, settings)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from beholder.serving.cluster.fleet import Fleet

    plan = Plan.open(folder)
    held = hold(folder)
    joined = Head.start_or_join(folder, _ray_address(host), ray_port)
    try:
        fleet = Fleet(plan, settings)
        fleet.connect(joined.address, joined.session)
        about = {"ray": joined.address, "session": joined.session}
        app = create_ingress(fleet, settings, about, page)  # pyright: ignore[reportArgumentType]
        server = Draining(configured(app, host, port), app.state.ingress)
        log.info("workers join with --controller %s:%d", _shown(host), port)
        asyncio.run(_serve(server, fleet))
        fleet.close()
        return server.started
    finally:
        joined.stop(folder)
        held.close()


async def _serve(server: Draining, fleet: Fleet) -> None:
    fleet.attend()
    await server.serve()


def hold(folder: Path) -> IO[str]:
    """Take the folder as long as this process lives; two controllers would undo each other's work."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"another controller runs with the state in {folder}; end it, or give --state FOLDER"
        ) from None
    return lock


def _ray_address(host: str) -> str:
    """Where Ray listens: where the controller does, or on the way to the outside where that is everywhere."""
    if is_loopback(host):
        return "127.0.0.1"
    return own_address("192.0.2.1:9") if host in ("0.0.0.0", "::", "") else host


def _shown(host: str) -> str:
    return "HOST" if host in ("0.0.0.0", "::", "") else host


def default_folder() -> Path:
    """Where the plan lies unless somebody says otherwise."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(base).expanduser() / "beholder" / "cluster"
    if not folder.is_absolute():
        raise ConfigError(f"XDG_STATE_HOME is {base!r}, which is no absolute path; give --state FOLDER")
    return folder
