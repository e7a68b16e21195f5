"""How replicas on Ray Serve are asked: for answers, for what their model is, and for their metrics.

All of it happens in one event loop, the one that takes the requests; threads ask through it.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException

from beholder.serving.cluster.calls import Call, FullError, LostError, Parcel, Part
from beholder.serving.cluster.deploying import DEPLOYMENT, application

log = logging.getLogger("beholder.serve")

METRICS_SECONDS = 2.0
Answered = TypeVar("Answered")


class Asking:
    """Calls to the replicas of workers. `loads` counts those on their way, by worker."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self._handles: dict[str, Any] = {}
        self._callers: dict[str, Any] = {}

    def attend(self) -> None:
        """From now on ask in the event loop that this is called in."""
        self._loop = asyncio.get_running_loop()

    def forget_all_but(self, workers: Collection[str]) -> None:
        """Give up what calls to others took: each handle has a router of Serve behind it."""
        for handles in (self._handles, self._callers):
            for worker in set(handles) - set(workers):
                handles.pop(worker, None)

    async def call(self, worker: str, call: Call) -> AsyncGenerator[Part]:
        """See `calls.Caller`."""
        self.loads[worker] += 1
        response: Any = None
        try:
            response = self._caller(worker).remote(call)
            parcel: Parcel | None = await _first(response)
            while parcel is not None:
                for part in parcel if isinstance(parcel, tuple) else (parcel,):
                    yield part
                parcel = await anext(response, None)
            response = None  # it has ended by itself
        except BackPressureError as error:
            raise FullError from error
        except RayTaskError as error:
            if _is_loss(error.cause):
                raise LostError from error
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise LostError from None  # not this call was cancelled, but the replica's work
        except TaskCancelledError:
            raise LostError from None
        except (RayError, RayServeException) as error:
            log.warning("a replica was lost: %s", str(error).splitlines()[0])
            raise LostError from error
        finally:
            self.loads[worker] -= 1
            if response is not None:
                response.cancel()

    def describe(self, worker: str) -> Future[dict[str, Any]]:
        """What one of a worker's replicas says of its model; for threads."""
        return self._in_loop(self._described(worker))

    async def _described(self, worker: str) -> dict[str, Any]:
        return await self._handle(worker).describe.remote()

    def metrics(self, workers: Iterable[str]) -> list[tuple[str, bytes]]:
        """What each replica's `/metrics` shows, but for those that do not answer in time; for threads."""
        asked = [self._in_loop(self._shown(worker)) for worker in workers]
        found: list[tuple[str, bytes]] = []
        for one in asked:
            with suppress(Exception):
                found += one.result(2 * METRICS_SECONDS)
        return found

    async def _shown(self, worker: str) -> list[tuple[str, bytes]]:
        return await self._handle(worker).broadcast("metrics").results_async(timeout_s=METRICS_SECONDS)

    def _in_loop(self, question: Coroutine[Any, Any, Answered]) -> Future[Answered]:
        return asyncio.run_coroutine_threadsafe(question, self._loop)

    def _handle(self, worker: str) -> Any:
        if worker not in self._handles:
            self._handles[worker] = serve.get_deployment_handle(DEPLOYMENT, application(worker))
        return self._handles[worker]

    def _caller(self, worker: str) -> Any:
        """A handle for answers only; to make it anew for each would cost each some of its time."""
        if worker not in self._callers:
            self._callers[worker] = self._handle(worker).options(stream=True, method_name="answer")
        return self._callers[worker]


async def _first(response: Any) -> Parcel | None:
    """The first parcel of a call; None where there is none.

    Serve can cancel a call whose replica is chosen only when the choice has been read. Whoever leaves just
    then must not leave the replica at work, so the reading goes on for a moment.
    """
    asking = asyncio.ensure_future(response.__anext__())
    try:
        return await asyncio.shield(asking)
    except StopAsyncIteration:
        return None
    except asyncio.CancelledError:
        try:
            await asyncio.sleep(0)
        finally:  # whoever cancels may do so again at once, as anyio does
            response.cancel()
            asking.cancel()
            asking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise


def _is_loss(cause: Any) -> bool:
    return isinstance(cause, RayError) and not isinstance(cause, RayTaskError)
