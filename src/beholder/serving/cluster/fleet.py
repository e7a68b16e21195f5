"""The replicas on Ray Serve: each worker's are one Serve application on its own node.

One application a worker, and not one a model, because a worker that leaves must take its own replicas with it
and no others. Two threads look after them: one reads what is there, one makes it what the plan says.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from beholder.serving.cluster.asking import Asking
from beholder.serving.cluster.calls import Call, Part
from beholder.serving.cluster.deploying import DEPLOYMENT, PREFIX, application, deployment, version
from beholder.serving.cluster.node import resource
from beholder.serving.cluster.plan import Joining, Plan
from beholder.serving.cluster.replica import FAILED
from beholder.serving.cluster.start import keep_to_loopback
from beholder.serving.settings import Keys, Settings

log = logging.getLogger("beholder.serve")

LOOK_SECONDS = 0.4
STALE_SECONDS = 10.0
State = Literal["loading", "ready", "failed", "gone"]


@dataclass(frozen=True)
class Seen:
    """A worker as it was found a moment ago."""

    worker: str
    model: str
    state: State
    ready: int = 0
    wanted: int = 0
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Fleet:
    """All workers: what the plan says, and what is there."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan = plan
        self.settings = replace(settings, keys=Keys())  # keys are checked before a call gets here
        self._asking = Asking()
        self.loads = self._asking.loads
        self.seen: dict[str, Seen] = {}
        self.leaving: set[str] = set()
        self._looked = time.monotonic()
        self._facts: dict[tuple[str, str], dict[str, Any]] = {}
        self._asked: dict[tuple[str, str], Future[dict[str, Any]]] = {}  # descriptions on their way
        self._replaced: str | None = None  # the worker that gets another model just now
        self._told: set[str] = set()  # of whom it was said that this failed
        self._running: dict[str, Any] = {}  # applications by name, as Serve told them last
        self._alive: set[str] = set()
        self._ended = threading.Event()

    def connect(self, address: str, session: str) -> None:
        """Join the Ray cluster whose head is there."""
        keep_to_loopback()
        host = address.rpartition(":")[0]
        ray.init(
            address=address, _node_ip_address=host, namespace="beholder", log_to_driver=False,
            logging_level=logging.WARNING, configure_logging=False,
        )  # fmt: skip
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self.plan.enter(session)

    def attend(self) -> None:
        """Begin to look after it; the event loop that this is called in is the one that asks the replicas."""
        self._asking.attend()
        for function in (self._look, self._tend):
            threading.Thread(
                target=self._repeat, args=(function,), name=function.__name__, daemon=True
            ).start()

    def close(self) -> None:
        """Look after them no more; they go on until the head ends."""
        self._ended.set()
        with suppress(Exception):
            ray.shutdown()

    @property
    def unseen(self) -> float:
        """Seconds for which what is there could not be read; 0 while it is read as it should be."""
        silent = time.monotonic() - self._looked
        return silent if silent > STALE_SECONDS else 0.0

    def is_member(self, worker: str) -> bool:
        """Whether a node of this worker is in the Ray cluster; asked now and not remembered."""
        return worker in _workers_of(ray.nodes())

    def capacity(self, worker: str) -> int:
        """How many replicas can take a call now."""
        seen = self.seen.get(worker)
        return seen.ready if seen and worker not in self.leaving else 0

    def leave(self, worker: str) -> None:
        """Give it no new calls, let it finish, and take its replicas away."""
        self.plan.leave(worker)
        self.leaving.add(worker)  # after the plan, by which a look tells who has come back

    def is_gone(self, worker: str) -> bool:
        """Whether nothing of it is left."""
        return worker not in self.plan.workers() and application(worker) not in self._running

    def call(self, worker: str, call: Call) -> AsyncGenerator[Part]:
        """See `calls.Caller`."""
        return self._asking.call(worker, call)

    def metrics(self) -> list[tuple[str, bytes]]:
        """What each replica's `/metrics` shows; those that do not answer in time are left out."""
        return self._asking.metrics([worker for worker, seen in list(self.seen.items()) if seen.ready])

    def _repeat(self, function: Any) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                function()
            except Exception as error:
                if not self._ended.is_set():
                    log.warning("the cluster cannot be asked: %s", str(error).strip().splitlines()[:1])

    def _look(self) -> None:
        """Read what is there."""
        self._alive = _workers_of(ray.nodes())
        self._running = dict(serve.status().applications)
        for worker in self.plan.seen(self._alive):
            log.warning("worker %s has been gone for long and is not expected any more", worker[:8])
        expected = self.plan.workers()
        self.leaving -= expected.keys() - {self._replaced}  # whoever is expected again has come back
        self.seen = {worker: self._one(joining) for worker, joining in expected.items()}
        self._asking.forget_all_but(expected)
        self._looked = time.monotonic()

    def _one(self, joining: Joining) -> Seen:
        worker, name = joining.worker, joining.model.name
        told = self._running.get(application(worker))
        part = told.deployments.get(DEPLOYMENT) if told else None
        ready = part.replica_states.get("RUNNING", 0) if part else 0
        seen = Seen(worker, name, "loading", ready, joining.low)
        if worker not in self._alive:
            return replace(seen, state="gone", ready=0, reason="its worker is gone")
        if ready:
            if facts := self._describe(joining):
                return replace(seen, state="ready", facts=facts)
            return seen
        if told and told.status in ("DEPLOY_FAILED", "UNHEALTHY") and part:
            if reason := _reason(part.message):
                return replace(seen, state="failed", reason=reason)
            if told.status == "DEPLOY_FAILED":
                return replace(seen, state="failed", reason=told.message or part.message)
        return seen

    def _describe(self, joining: Joining) -> dict[str, Any] | None:
        """What a replica says of its model, asked once; None until it has. Nobody waits for it here."""
        key = (joining.worker, self._version(joining))
        if key in self._facts:
            return self._facts[key]
        if key not in self._asked:
            self._asked[key] = self._asking.describe(joining.worker)
            return None
        told = self._asked[key]
        with suppress(TimeoutError, CancelledError):
            told.exception(0.05)
        if not told.done():
            return None
        # Whatever it says, it is asked anew: the next look must not stumble over the same error.
        del self._asked[key]
        with suppress(RayError, RayServeException, CancelledError):  # the next look asks another replica
            self._facts[key] = told.result()
        return self._facts.get(key)

    def _version(self, joining: Joining) -> str:
        return version(joining, self.settings)

    def _tend(self) -> None:
        """Make it what the plan says: delete what is not expected, deploy what is new, replace one by one."""
        for worker, seen in list(self.seen.items()):
            if seen.state == "ready" and (changed := self.plan.promote(worker)):
                log.info("the update of %s answers; %d workers get it", seen.model, len(changed))
        expected = self.plan.workers()
        wanted = {application(worker) for worker in expected}
        for name in self._running.keys() - wanted:
            if name.startswith(PREFIX):  # what others run on this cluster is theirs
                serve.delete(name, _blocking=False)
        if self._replaced is not None and self._is_replaced(self._replaced, expected):
            self.leaving.discard(self._replaced)
            self._facts = {key: told for key, told in self._facts.items() if key[0] != self._replaced}
            self._replaced = None
        for worker, joining in expected.items():
            before = self.plan.deployed(worker)
            if before == self._version(joining) or worker not in self._alive:
                continue
            if before and self._replaced is not None:
                continue  # its turn comes
            log.info("worker %s gets %s", worker[:8], joining.model.name)
            if before:
                self._replaced = worker
                if not joining.spare and joining.high == 1:
                    self.leaving.add(worker)  # its only replica goes before the new one comes
            self._deploy(joining)
            self.plan.note(worker, self._version(joining))

    def _deploy(self, joining: Joining) -> None:
        target = serve.RunTarget(deployment(joining, self.settings), application(joining.worker), None)
        serve.run_many([target], wait_for_applications_running=False)

    def _is_replaced(self, worker: str, expected: dict[str, Joining]) -> bool:
        """Whether the next one may be replaced: this one is done, or is not there any more.

        Where it failed nobody else is: the others go on with what they have, until this worker leaves.
        """
        told = serve.status().applications.get(application(worker))
        if worker not in expected or worker not in self._alive or told is None:
            return True
        if told.status == "DEPLOY_FAILED" and worker not in self._told:
            self._told.add(worker)
            log.error("worker %s cannot serve a new model, so no other gets it: %s", worker[:8], told.message)
        return told.status == "RUNNING"


def _workers_of(nodes: list[Any]) -> set[str]:
    mark = resource("")
    return {
        name.removeprefix(mark)
        for node in nodes
        if node["Alive"]
        for name in node["Resources"]
        if name.startswith(mark)
    }


def _reason(message: str) -> str | None:
    """What the replica said of why it cannot be made, out of the traceback that Serve tells."""
    _, found, rest = message.rpartition(FAILED)
    return rest.strip().splitlines()[0] if found and rest.strip() else None
