"""What a replica hands over at once: everything that was said in one go, and nothing waits for company."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.serving_app import Here, chat

from beholder.serving.cluster.calls import Call, Head, Parcel
from beholder.serving.cluster.outbox import Outbox
from beholder.serving.cluster.replica import Replica
from beholder.serving.sse import DONE, KEEP_ALIVE, blocks, has_event

START = {"type": "http.response.start", "status": 200, "headers": [[b"a", b"b"]]}
HEAD = Head(200, ((b"a", b"b"),))
END = {"type": "http.response.body", "body": b""}


def body(block: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": block, "more_body": True}


def travelled(*goes: tuple[Any, ...]) -> list[Parcel]:
    """The parcels of an application that says these messages, and waits after each group of them."""

    async def run() -> list[Parcel]:
        outbox, taken = Outbox(), list[Parcel]()

        async def say() -> None:
            for messages in goes:
                for message in messages:
                    await outbox.put(message)
                while outbox._head is not None or outbox._blocks:  # taken before anything else is said
                    await asyncio.sleep(0)
            outbox.close()

        saying = asyncio.create_task(say())
        while (parcel := await outbox.take()) is not None:
            taken.append(parcel)
        await saying
        return taken

    return asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize(
    ("goes", "parcels"),
    [
        ([(START, body(b"{}"), END)], [(HEAD, b"{}")]),
        ([(START,), (body(b"a"),), (body(b"b"), body(b"c"), END)], [HEAD, b"a", b"bc"]),
        ([(START, body(b"a"), body(b"b")), (body(b"c"),)], [(HEAD, b"ab"), b"c"]),
        ([(START, END)], [HEAD]),
        ([], []),
    ],
)
def test_what_is_said_in_one_go_travels_together(goes, parcels):
    assert travelled(*goes) == parcels


def test_what_was_said_before_the_end_is_not_lost():
    async def run() -> list[Any]:
        outbox = Outbox()
        await outbox.put(body(b"a"))
        outbox.close()
        return [await outbox.take(), await outbox.take(), await outbox.take()]

    assert asyncio.run(run()) == [b"a", None, None]


def test_blocks_that_travelled_together():
    assert blocks(KEEP_ALIVE + b'data: {"a":"\\n\\n"}\n\n' + DONE) == [
        KEEP_ALIVE, b'data: {"a":"\\n\\n"}\n\n', DONE,
    ]  # fmt: skip
    assert blocks(b"") == []
    assert not has_event(KEEP_ALIVE + KEEP_ALIVE)
    assert has_event(KEEP_ALIVE + DONE)


def parcels(request: dict[str, Any]) -> list[Parcel]:
    """What a replica with the fake model hands over."""
    here = Here()
    replica = Replica.__new__(Replica)
    replica.served, replica.app = here.registry.get("fake"), here.app
    kind = ((b"content-type", b"application/json"),)

    async def run() -> list[Parcel]:
        call = Call("/v1/chat/completions", json.dumps(request).encode(), kind)
        return [parcel async for parcel in replica.answer(call)]

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_a_whole_answer_is_one_parcel():
    (parcel,) = parcels(chat())
    assert isinstance(parcel, tuple)
    assert parcel[0].status == 200
    assert json.loads(parcel[1])["choices"][0]["finish_reason"] == "stop"
    (refused,) = parcels(chat(max_tokens=-1))
    assert isinstance(refused, tuple)
    assert refused[0].status == 400


def test_a_stream_begins_with_its_first_words_and_ends_with_its_end():
    first, *rest = parcels(chat(stream=True, stream_options={"include_usage": True}))
    assert isinstance(first, tuple)
    assert first[0].is_stream
    # Where the answer is given before anybody takes the first parcel, all of it is in there.
    told = [json.loads(block[6:]) for block in blocks(first[1]) if block != DONE]
    said = [choice["delta"] for event in told for choice in event["choices"]]
    assert said[0]["role"] == "assistant"
    assert said[1]["content"]
    last = rest[-1] if rest else first[1]
    assert isinstance(last, bytes)
    *_, end, usage, done = blocks(last)
    assert json.loads(end[6:])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(usage[6:])["usage"]["completion_tokens"]
    assert done == DONE
