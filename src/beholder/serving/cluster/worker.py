"""`beholder worker` as a process: a Ray node with replicas of one model, kept in the controller's cluster."""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx

from beholder.core.errors import BeholderError, ConfigError
from beholder.serving.addresses import is_loopback
from beholder.serving.cluster.node import Node, member
from beholder.serving.cluster.plan import Joining, Model

log = logging.getLogger("beholder.serve")

WATCH_SECONDS = 0.5
LEAVE_SECONDS = 660.0
UNREACHED = 20  # looks without an answer before somebody is told


class Controller:
    """The controller's routes for workers."""

    def __init__(self, address: str) -> None:
        self.base = base_address(address)
        outside = not is_loopback(urlsplit(self.base).hostname or "")
        self._client = httpx.Client(base_url=self.base, timeout=10.0, trust_env=outside)

    def about(self) -> dict[str, str] | None:
        """Where its Ray head is; None while it cannot be reached."""
        try:
            response = self._client.get("/cluster")
            return response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None

    def join(self, joining: Joining) -> Joining | str:
        """Say what this worker does: as what it is taken, or why not yet."""
        try:
            response = self._client.post("/cluster/workers", content=joining.model_dump_json())
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        if response.is_success:
            return Joining.model_validate(response.json())
        reason = _message(response)
        if response.status_code in (400, 409):
            raise ConfigError(reason)
        return reason

    def state(self, worker: str) -> dict[str, Any] | None:
        """What the controller sees of this worker; None while it cannot be reached."""
        try:
            response = self._client.get(f"/cluster/workers/{worker}")
            return response.json() if response.is_success else None
        except (httpx.HTTPError, ValueError):
            return None

    def leave(self, worker: str) -> bool:
        """Say goodbye; whether it was heard."""
        try:
            return self._client.delete(f"/cluster/workers/{worker}").is_success
        except httpx.HTTPError:
            return False


class Worker:
    """One worker from its start to its end, over restarts of its node and of the controller."""

    def __init__(self, address: str, model: Model, low: int, high: int, *, update: bool = False) -> None:
        self.controller = Controller(address)
        self.joining = Joining(worker=uuid.uuid4().hex, model=model, low=low, high=high, update=update)
        self._ended = threading.Event()
        self._was_ready = False
        self._told = ""

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()

    def run(self) -> bool:
        """Serve until a signal comes; whether it ended as it was told to."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        while not self._ended.is_set():
            about = self._reach()
            if about is None:
                break
            slots = self.joining.high + self.joining.spare
            model = self.joining.model
            node = member(about["ray"], self.joining.worker, slots, model.cpus, model.gpus)
            try:
                node.wait()
                if self._join():
                    self._watch(node, about["session"])
                if self._ended.is_set():
                    self._leave()
            except ConfigError:
                raise
            except BeholderError as error:
                log.warning("%s", error)
                self._ended.wait(2.0)
            finally:
                node.stop()
        return True

    def _reach(self) -> dict[str, str] | None:
        """Wait for the controller, however long that takes."""
        looks = 0
        while not self._ended.is_set():
            if about := self.controller.about():
                return about
            if looks % UNREACHED == 0:
                log.info("waiting for the controller at %s", self.controller.base)
            looks += 1
            self._ended.wait(WATCH_SECONDS)
        return None

    def _join(self) -> bool:
        """Whether the controller expects this worker now."""
        until = time.monotonic() + 60
        while not self._ended.is_set():
            taken = self.controller.join(self.joining)
            if isinstance(taken, Joining):
                # An update may have given it another model, with which it comes to a new cluster, too.
                self.joining = taken.model_copy(update={"update": False})
                return True
            if time.monotonic() > until:
                log.warning("the controller does not take this worker: %s", taken)
                return False
            self._ended.wait(WATCH_SECONDS)
        return False

    def _watch(self, node: Node, session: str) -> None:
        """Until the node or the cluster has ended, or somebody wants this worker to end."""
        name = self.joining.model.name
        while not self._ended.wait(WATCH_SECONDS):
            if not node.is_alive:
                log.warning("the node of this worker ended and is started again")
                return
            about = self.controller.about()
            if about is not None and about["session"] != session:
                log.warning("the controller has a new cluster, which is joined")
                return
            told = self.controller.state(self.joining.worker)
            if told is None:
                continue
            if told["state"] == "failed" and not self._was_ready:
                self.controller.leave(self.joining.worker)
                raise ConfigError(f"model {name} cannot be served: {told['reason']}")
            self._was_ready = self._was_ready or told["state"] == "ready"
            if told["state"] in ("gone", "leaving") and "wanted" not in told:
                log.warning("the controller does not expect this worker any more; it joins again")
                return
            # One that was ready before is tried again by Serve: memory of a dead replica may not be free yet.
            reason = f" ({told['reason']})" if told["state"] == "failed" else ""
            self._tell(f"model {name} is {told['state']}{reason}", told)

    def _tell(self, what: str, told: dict[str, Any]) -> None:
        if "wanted" in told:
            what += f" ({told['ready']} of {told['wanted']} replicas)"
        if what != self._told:
            self._told = what
            log.info("%s", what)

    def _leave(self) -> None:
        """Let the replicas finish their answers, then go."""
        until = time.monotonic() + LEAVE_SECONDS
        if not self.controller.leave(self.joining.worker):
            return
        log.info("running answers are finished, nothing new is begun")
        unheard = 0
        while time.monotonic() < until and unheard < UNREACHED:
            told = self.controller.state(self.joining.worker)
            if told is not None and told["state"] == "gone":
                return
            unheard = unheard + 1 if told is None else 0  # one silence is no reason to cut answers off
            time.sleep(0.2)


def base_address(address: str) -> str:
    """`HOST:PORT` or an http address as a base address."""
    parts = urlsplit(address if "//" in address else f"http://{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        raise ConfigError(
            f"{address!r} is no address of a controller; give HOST:PORT, such as 127.0.0.1:8000"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
