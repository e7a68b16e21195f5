"""A request's way to a replica and back: which one, what if it is lost, and when to give up.

As long as nobody has been told a word of the answer, another replica may give it. After that a stream goes on
only if another replica says the same (see `resuming.py`), and else ends with an error event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import Counter

from beholder.serving.cluster.affinity import ranked, spilled
from beholder.serving.cluster.calls import Call, Caller, FullError, Head, LostError, Part
from beholder.serving.cluster.resuming import DifferentError, Told
from beholder.serving.cluster.watching import Watch
from beholder.serving.errors import APIError
from beholder.serving.metrics import Metrics
from beholder.serving.settings import Settings
from beholder.serving.sse import has_event

TRIES = 6  # where replicas die often; few enough for a request that kills them
GONE_SECONDS = 2.0  # a worker is not given up at its first silence
REPLY_SECONDS = 30.0  # what a replica may take longer than its own limit


class SeenWorker(Protocol):
    """What is known of a worker; `fleet.Seen`."""

    @property
    def worker(self) -> str:
        """Its id."""
        ...

    @property
    def model(self) -> str:
        """What it serves."""
        ...

    @property
    def state(self) -> str:
        """loading, ready, failed or gone."""
        ...

    @property
    def ready(self) -> int:
        """Replicas that answer."""
        ...

    @property
    def wanted(self) -> int:
        """Replicas that there should be."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it is not ready."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What the model is."""
        ...


class Workers(Caller, Protocol):
    """The workers as a relay needs them; `fleet.Fleet`."""

    @property
    def seen(self) -> Mapping[str, SeenWorker]:
        """By id."""
        ...

    @property
    def loads(self) -> Mapping[str, int]:
        """Calls on their way, by worker."""
        ...

    def capacity(self, worker: str) -> int:
        """How many replicas of it can take a call now."""
        ...


@dataclass(frozen=True)
class Patience:
    """Seconds to wait: for a replica of a model that had one, and for a sign of life within a stream."""

    for_replica: float = 120.0
    for_sign: float = 45.0


class Relay:
    """Brings calls to replicas."""

    def __init__(
        self, workers: Workers, settings: Settings, metrics: Metrics, patience: Patience | None = None
    ) -> None:
        self.workers = workers
        self.settings = settings
        self.patience = patience or Patience()
        self._known: set[str] = set()  # models that had a replica once
        self._lost = Counter(
            "beholder_replicas_lost", "Replicas lost while they answered, by what became of the answer.",
            ("model", "then"), registry=metrics.registry,
        )  # fmt: skip

    async def answer(self, model: str, call: Call) -> AsyncGenerator[Part]:
        """How the answer begins, then its body: whole at once, or the blocks of a stream as they come."""
        try:
            async with asyncio.timeout(self.settings.request_seconds + REPLY_SECONDS):
                async with aclosing(self._tries(model, call)) as parts:
                    async for part in parts:
                        yield part
        except TimeoutError:
            raise APIError(
                408, f"no answer within {self.settings.request_seconds:g} s", code="timeout", retry=True
            ) from None

    async def _tries(self, model: str, call: Call) -> AsyncGenerator[Part]:
        opened = said = is_stream = False
        avoided: set[str] = set()
        told = Told() if call.is_repeatable else None
        for _ in range(TRIES):
            worker = await self._choose(model, call.key, avoided)
            try:
                async with aclosing(self._once(worker, call)) as parts:
                    async for part in parts:
                        if isinstance(part, Head):
                            if not opened:
                                yield part
                            elif not part.is_stream:
                                raise lost()
                            opened = True
                            is_stream = part.is_stream
                        else:
                            for block in told.pass_on(part) if told is not None and is_stream else (part,):
                                said = said or not is_stream or has_event(block)  # a comment says nothing
                                yield block
                return
            except LostError:
                avoided.add(worker)
                ends = said and told is None
                self._lost.labels(model, "error" if ends else "resumed" if said else "retry").inc()
                if ends:
                    break
                if told is not None:
                    told.begin_again()
            except DifferentError:
                self._lost.labels(model, "error").inc()
                break
            except FullError:
                raise APIError(
                    429, f"too many requests wait for model {model}; come again later",
                    code="queue_full", retry=True,
                ) from None  # fmt: skip
        raise lost()

    async def _choose(self, model: str, key: bytes, avoided: set[str]) -> str:
        """A worker with a replica, rather not one that was just lost; waits a while for one that is gone."""
        until = time.monotonic() + self.patience.for_replica
        while True:
            workers = [one.worker for one in self.workers.seen.values() if one.model == model]
            weights = {worker: float(self.workers.capacity(worker)) for worker in workers}
            order = spilled(ranked(key, weights), dict(self.workers.loads), weights)
            if order:
                self._known.add(model)
                return next((worker for worker in order if worker not in avoided), order[0])
            # A model whose last worker left in order is not waited for: nobody promises that it comes back.
            if not workers or model not in self._known or time.monotonic() > until:
                raise self.refusal(model)
            await asyncio.sleep(0.05)

    def refusal(self, model: str) -> APIError:
        """Why this model cannot be asked now."""
        seen = [one for one in self.workers.seen.values() if one.model == model]
        if not seen:
            known = ", ".join(sorted({one.model for one in self.workers.seen.values()})) or "none"
            return APIError(
                404, f"there is no model {model[:200]!r} here; known: {known}",
                code="model_not_found", param="model",
            )  # fmt: skip
        failed = [one for one in seen if one.state == "failed"]
        if len(failed) == len(seen):
            return APIError(
                503, f"model {model} cannot be served: {failed[0].reason}", code="model_not_ready"
            )
        if all(one.state == "gone" for one in seen):
            return APIError(503, f"the workers of model {model} are gone", code="model_not_ready", retry=True)
        return APIError(503, f"model {model} is still loading", code="model_not_ready", retry=True)

    async def _once(self, worker: str, call: Call) -> AsyncGenerator[Part]:
        """One replica's answer; a body that is no stream comes as one part, so that it can be tried again."""
        body: list[bytes] = []
        head: Head | None = None
        async with aclosing(self._watched(worker, call)) as parts:
            async for part in parts:
                if isinstance(part, Head):
                    head = part
                    if head.is_stream:
                        yield head
                elif head is not None and head.is_stream:
                    yield part
                else:
                    body.append(part)
        if head is None:
            raise LostError
        if not head.is_stream:
            yield head
            yield b"".join(body)

    async def _watched(self, worker: str, call: Call) -> AsyncGenerator[Part]:
        """The same, given up when the worker is gone or a stream shows no sign of life."""
        patience = self.patience
        is_stream = False
        there = time.monotonic()  # when it was there for certain

        def is_lost(since: float) -> bool:
            nonlocal there
            now = time.monotonic()
            seen = self.workers.seen.get(worker)
            if seen is None or seen.ready:
                there = now  # one that leaves in order is not listed any more and ends its answers
            elif now - max(there, since) > (GONE_SECONDS if seen.state == "gone" else patience.for_replica):
                return True
            return is_stream and now - since > patience.for_sign

        watch = Watch(is_lost)
        parts = self.workers.call(worker, call)
        try:
            while (part := await watch.wait(anext(parts, None))) is not None:
                is_stream = part.is_stream if isinstance(part, Head) else is_stream
                yield part
        finally:
            watch.close()
            await parts.aclose()


def lost() -> APIError:
    """What the client is told when an answer cannot be given for want of the replica that had it."""
    return APIError(503, "the replica that was answering is gone; ask again", code="replica_lost", retry=True)
