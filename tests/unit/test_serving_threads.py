"""Answers while they come: how their pieces gather, and the threads beside the engine's."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import torch
from tests.fake_vlm import WORDS
from tests.serving_app import Here, events

import beholder
from beholder.core.types import Sampling
from beholder.serving.answering import Load
from beholder.serving.threads import pool


@pytest.fixture(scope="module")
def vlm() -> beholder.VLM:
    return beholder.load(device="cpu")


def test_the_pieces_of_a_while_come_together_and_the_end_at_once(vlm):
    wanted = vlm.chat("Hello.", max_tokens=40, ignore_eos=True)
    stream = vlm.submit("Hello.", max_tokens=40, ignore_eos=True)
    pieces = [stream.gather(30.0)]
    begun = time.monotonic()
    while (piece := stream.gather(30.0)) is not None:
        pieces.append(piece)
    assert time.monotonic() - begun < 25  # the end was not waited for
    assert "".join(pieces) == wanted.text
    assert len(pieces) <= 3
    assert stream.answer.usage.completion_tokens == wanted.usage.completion_tokens == 40


def test_without_a_pause_nothing_is_different(vlm):
    wanted = vlm.chat("Hello.", max_tokens=20, ignore_eos=True)
    stream = vlm.submit("Hello.", max_tokens=20, ignore_eos=True)
    pieces: list[str] = []
    while (piece := stream.gather(0.0)) is not None:
        pieces.append(piece)
    assert "".join(pieces) == wanted.text


@pytest.mark.parametrize("seconds", [30.0, None])
def test_whoever_waits_is_told_that_it_was_cancelled(vlm, seconds):
    stream = vlm.submit("Hello.", max_tokens=1500, ignore_eos=True)
    assert stream.gather(seconds)
    leaving = threading.Timer(0.2, stream.cancel)
    leaving.start()
    begun = time.monotonic()
    while stream.gather(seconds) is not None:
        pass
    assert time.monotonic() - begun < 25
    assert stream.answer.finish_reason == "cancelled"
    leaving.join()


def test_an_error_of_the_engine_ends_the_pause(vlm):
    request = vlm.engine.submit(vlm.processor.encode((beholder.Message.user("?"),)), Sampling(max_tokens=2))
    assert not request._ended.is_set()
    request.error = RuntimeError("broken")
    begun = time.monotonic()
    request.pause(30.0)
    assert time.monotonic() - begun < 25
    request.close()


def test_only_streams_are_cut_into_events_and_they_share_a_rate():
    here = Here(events_per_second=50.0)
    made: list[Any] = []
    submit = here.vlm.submit
    here.vlm.submit = lambda *given, **settings: made.append(submit(*given, **settings)) or made[-1]
    here.chat()
    *_, done = events(here.chat(stream=True))
    assert done == "[DONE]"
    whole, streamed = made
    assert set(whole.pauses) == {None}
    assert set(streamed.pauses) == {1 / 50}
    assert len(streamed.pauses) == len(WORDS) + 1


def test_the_engines_end_is_ignored_where_it_is_wanted():
    here = Here()
    here.chat(ignore_eos=True)
    here.chat(ignore_eos=None)
    assert [sampling.ignore_eos for _, sampling in here.vlm.asked] == [True, False]


def test_threads_of_the_server_work_alone():
    before = torch.get_num_threads()
    with pool(1, "test") as threads:
        assert threads.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert other == [before]


def test_the_server_uses_them():
    here = Here()

    async def count() -> int:
        return await here.server.in_thread(torch.get_num_threads)

    assert asyncio.run(count()) == 1
    assert here.server.threads.submit(torch.get_num_threads).result() == 1


def test_a_model_whose_engine_died_is_not_ready():
    here = Here()
    assert here.get("/ready").status_code == 200
    here.vlm.engine.is_closed = True
    assert here.get("/ready").json() == {"status": "not ready", "models": {"fake": "stopped"}}
    told = here.chat()
    assert (told.status_code, told.json()["error"]["code"]) == (503, "model_not_ready")
    assert here.registry.is_lost
    here.registry.close()
    assert not here.registry.is_lost  # that end was wanted


def test_the_engine_says_that_it_was_closed():
    other = beholder.load(device="cpu")
    assert not other.engine.is_closed
    other.close()
    assert other.engine.is_closed


def test_load_counts_from_any_thread():
    load = Load()
    threads = [
        threading.Thread(target=lambda: [load.change(running=1) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load.running == 2000
