"""A stop ends an answer before anything else is shown, whatever the answer is doing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from beholder.serving.web import stopping
from beholder.serving.web.stopping import Running


class Counting:
    """A handler that counts, then waits forever; it says what became of it."""

    def __init__(self, until: int) -> None:
        self.until, self.given, self.began, self.closed = until, 0, False, False

    async def __call__(self) -> AsyncGenerator[int]:
        self.began = True
        try:
            while self.given < self.until:
                self.given += 1
                yield self.given
                await asyncio.sleep(0)
            await asyncio.sleep(3600)
        finally:
            self.closed = True


async def read(updates: AsyncGenerator[int], into: list[int], pause: float = 0.0) -> None:
    async with aclosing(updates):
        async for update in updates:
            into.append(update)
            await asyncio.sleep(pause)


@pytest.mark.parametrize("until", [0, 1, 2, 10**9])
def test_nothing_comes_after_a_stop(until):
    async def run() -> None:
        running, handler, seen = Running(), Counting(until), list[int]()
        page = asyncio.create_task(read(running.until_stopped("a", handler()), seen))
        while len(seen) < min(until, 50) or not handler.began:
            await asyncio.sleep(0)
        await asyncio.wait_for(running.stop("a"), 10)
        at_stop = list(seen)
        await asyncio.wait_for(page, 10)
        assert seen == at_stop == list(range(1, len(seen) + 1))
        assert (handler.closed, len(running)) == (True, 0)

    asyncio.run(run())


def test_a_stop_before_the_first_step_ends_it_too():
    async def run() -> None:
        running, seen = Running(), list[int]()
        page = asyncio.create_task(read(running.until_stopped("a", Counting(3)()), seen))
        while not len(running):
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(running.stop("a"), page), 10)
        assert seen == []

    asyncio.run(run())


def test_a_stop_waits_for_what_the_page_still_shows():
    async def run() -> None:
        running, seen = Running(), list[int]()
        page = asyncio.create_task(read(running.until_stopped("a", Counting(10**9)()), seen, 0.05))
        while not seen:
            await asyncio.sleep(0)
        await running.stop("a")
        assert page.done() or len(running) == 0
        before = len(seen)
        await page
        assert len(seen) == before

    asyncio.run(run())


def test_one_visitor_stops_nobody_else():
    async def run() -> None:
        running, seen, others = Running(), list[int](), list[int]()
        page = asyncio.create_task(read(running.until_stopped("a", Counting(10**9)()), seen))
        other = asyncio.create_task(read(running.until_stopped("b", Counting(10**9)()), others))
        while not seen or not others:
            await asyncio.sleep(0)
        await running.stop("nobody")
        await running.stop("a")
        await page
        before = len(others)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(others) > before
        await running.stop("b")
        await other

    asyncio.run(run())


def test_all_of_an_answer_that_ends_by_itself_is_seen_and_so_is_its_error():
    async def three(error: Exception | None) -> AsyncGenerator[int]:
        for number in (1, 2, 3):
            yield number
        if error:
            raise error

    async def run(error: Exception | None, pause: float) -> list[int]:
        running, seen = Running(), list[int]()
        try:
            await read(running.until_stopped(None, three(error)), seen, pause)
        finally:
            assert len(running) == 0
            assert seen == [1, 2, 3]
        return seen

    for pause in (0.0, 0.01):
        assert asyncio.run(run(None, pause)) == [1, 2, 3]
        with pytest.raises(ValueError, match="no room"):
            asyncio.run(run(ValueError("no room"), pause))


def test_a_visitor_who_leaves_closes_the_answer():
    async def run() -> None:
        running, handler = Running(), Counting(10**9)
        updates = running.until_stopped("a", handler())
        assert await anext(updates) == 1
        await updates.aclose()
        assert (handler.closed, len(running)) == (True, 0)

    asyncio.run(run())


def test_a_stop_does_not_wait_forever_for_a_page_that_is_gone(monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.05)

    async def run() -> None:
        running, handler = Running(), Counting(10**9)
        updates: Any = running.until_stopped("a", handler())
        await anext(updates)  # and nobody asks for more
        await asyncio.wait_for(running.stop("a"), 10)
        assert handler.closed
        await updates.aclose()

    asyncio.run(run())
