"""Waits that end when a look says that nothing will come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beholder.serving.cluster import watching
from beholder.serving.cluster.calls import LostError
from beholder.serving.cluster.watching import Watch


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def test_a_wait_ends_when_what_is_awaited_is_lost():
    asked: list[float] = []

    def is_lost(since: float) -> bool:
        asked.append(since)
        return len(asked) == 3

    async def work() -> int:
        watch = Watch(is_lost)
        with pytest.raises(LostError):
            await watch.wait(asyncio.Event().wait())
        watch.close()
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)  # nothing of the cancellation is left
        return task.cancelling()

    assert run(work()) == 0
    assert asked[0] == asked[2]


def test_nobody_is_asked_while_nobody_waits():
    async def work() -> str:
        watch = Watch(lambda since: True)
        await asyncio.sleep(0.05)
        told = await watch.wait(asyncio.sleep(0, "here"))
        watch.close()
        return told

    assert run(work()) == "here"


def test_whoever_is_cancelled_stays_cancelled():
    async def work() -> bool:
        watch = Watch(lambda since: False)
        waiting = asyncio.create_task(watch.wait(asyncio.Event().wait()))
        await asyncio.sleep(0.03)
        waiting.cancel()
        await asyncio.wait({waiting})
        watch.close()
        return waiting.cancelled()

    assert run(work())


def test_both_at_once_is_a_cancellation():
    async def work() -> bool:
        cancelled: list[asyncio.Task[Any]] = []

        def is_lost(since: float) -> bool:
            cancelled[0].cancel()
            return True

        watch = Watch(is_lost)
        waiting = asyncio.create_task(watch.wait(asyncio.Event().wait()))
        cancelled.append(waiting)
        await asyncio.wait({waiting})
        watch.close()
        return waiting.cancelled()

    assert run(work())


def test_an_error_of_what_is_awaited_comes_through():
    async def fails() -> None:
        raise ValueError("its own")

    async def work() -> None:
        watch = Watch(lambda since: False)
        with pytest.raises(ValueError, match="its own"):
            await watch.wait(fails())
        watch.close()

    run(work())
