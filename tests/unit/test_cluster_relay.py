"""A request's way to replicas that are lost, full, silent or loading; no Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from tests.serving_app import Here, chat, error, events

from beholder.serving.cluster import relay, watching
from beholder.serving.cluster.calls import Call, FullError, Head, LostError, Parcel, Part
from beholder.serving.cluster.ingress import create_ingress
from beholder.serving.cluster.plan import Joining, Model, Plan
from beholder.serving.cluster.relay import TRIES, Patience
from beholder.serving.cluster.replica import Replica
from beholder.serving.metrics import Metrics
from beholder.serving.settings import Keys, Settings

JSON = Head(200, ((b"content-type", b"application/json"), (b"x-other", b"1")))
STREAM = Head(200, ((b"content-type", b"text/event-stream; charset=utf-8"),))
KEEP_ALIVE = b": keep-alive\n\n"
Way = Callable[[Call], AsyncGenerator[Part]]


def event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "1", "choices": [choice]}).encode() + b"\n\n"


def says(*parts: Part | Exception | float) -> Way:
    """A replica that says this, fails so, or waits so long."""

    async def way(_call: Call) -> AsyncGenerator[Part]:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                yield part

    return way


@dataclass
class Worker:
    worker: str
    way: Way
    model: str = "fake"
    state: str = "ready"
    ready: int = 1
    wanted: int = 1
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=lambda: {"family": "fake"})


class Crew:
    """Workers that do what they are told."""

    def __init__(self, *workers: Worker) -> None:
        self.seen = {one.worker: one for one in workers}
        self.loads: dict[str, int] = {}
        self.asked: list[str] = []
        self.closed = 0
        self.members = {"a" * 32}
        self.plan = Plan()
        self.told: list[tuple[str, bytes]] = []
        self.unseen = 0.0

    def capacity(self, worker: str) -> int:
        return self.seen[worker].ready

    def is_member(self, worker: str) -> bool:
        return worker in self.members

    def leave(self, worker: str) -> None:
        self.plan.leave(worker)

    def is_gone(self, worker: str) -> bool:
        return worker not in self.plan.workers()

    def metrics(self) -> list[tuple[str, bytes]]:
        return self.told

    async def call(self, worker: str, call: Call) -> AsyncGenerator[Part]:
        self.asked.append(worker)
        try:
            async for part in self.seen[worker].way(call):
                yield part
        finally:
            self.closed += 1


def crew(*ways: Way, **fields: Any) -> Crew:
    return Crew(*(Worker(str(number), way, **fields) for number, way in enumerate(ways)))


def ask(crew: Crew, call: Any = None, *, patience: Patience | None = None, **settings: Any) -> httpx.Response:
    app = create_ingress(crew, Settings(**settings), {"ray": "r", "session": "s"})  # pyright: ignore[reportArgumentType]
    app.state.ingress.relay.patience = patience or Patience(0.3, 0.3)
    here = Here.__new__(Here)
    here.app = app
    return here.run(call) if call else here.post("/v1/chat/completions", chat())


def first_of(crew: Crew) -> Worker:
    """Who is asked first, whatever the hash says."""
    ask(crew)
    first = crew.seen[crew.asked[0]]
    crew.asked.clear()
    return first


def test_the_answer_of_a_replica_comes_through():
    said = crew(says(JSON, b'{"a":', b"1}"))
    response = ask(said)
    assert (response.status_code, response.content, said.closed) == (200, b'{"a":1}', 1)
    assert response.headers["x-request-id"]
    assert "x-other" not in response.headers
    refused = Head(400, ((b"content-type", b"application/json"),))
    assert ask(crew(says(refused, b"{}"))).status_code == 400


def test_the_same_conversation_comes_to_the_same_replica():
    said = crew(*[says(JSON, b"{}")] * 4)
    for _ in range(3):
        ask(said)
    assert len(set(said.asked)) == 1


def test_a_lost_answer_is_given_by_another_replica():
    said = crew(says(JSON, b"{}"), says(JSON, b"{}"))
    first_of(said).way = says(JSON, b"half", LostError())
    response = ask(said)
    assert (response.status_code, response.content) == (200, b"{}")
    assert len(set(said.asked)) == 2


def test_a_stream_is_begun_again_before_a_word_was_said():
    said = crew(says(STREAM, event("b")), says(STREAM, event("b")))
    first_of(said).way = says(STREAM, KEEP_ALIVE, LostError())
    response = ask(said)
    assert [one["choices"][0]["delta"]["content"] for one in events(response)] == ["b"]
    assert response.text.startswith(":")


def streamed(said: Crew, **fields: Any) -> list[Any]:
    body = chat(stream=True, **fields)
    return events(ask(said, lambda client: client.post("/v1/chat/completions", json=body)))


def text(told: list[Any]) -> str:
    return "".join(one["choices"][0]["delta"].get("content", "") for one in told if one != "[DONE]")


OPENING = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
ENDING = b'data: {"id":"2","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def test_a_repeatable_stream_goes_on_where_it_was_lost():
    whole = says(STREAM, OPENING, event("on"), event("e tw"), event("o"), ENDING, DONE)
    said = crew(whole, whole)
    first_of(said).way = says(STREAM, OPENING, event("one"), event(" "), LostError())
    told = streamed(said)
    assert text(told) == "one two"
    assert told[-1] == "[DONE]"
    assert [one["choices"][0].get("finish_reason") for one in told[:-1]].count("stop") == 1
    assert sum("role" in one["choices"][0]["delta"] for one in told[:-1]) == 1
    assert {one["id"] for one in told[:-1]} == {"1"}


@pytest.mark.parametrize("rest", [[event("two")], [event("o"), ENDING], [event("o"), DONE]])
def test_a_stream_does_not_go_on_with_other_words(rest):
    other = says(STREAM, OPENING, *rest)
    said = crew(other, other)
    first_of(said).way = says(STREAM, OPENING, event("one"), LostError())
    told = streamed(said)
    assert text(told[:-1]) == "one"
    assert told[-1]["error"]["code"] == "replica_lost"


@pytest.mark.parametrize("drawn", [{"temperature": 1}, {"logprobs": True}])
def test_a_drawn_stream_that_has_begun_ends_with_an_error(drawn):
    said = crew(says(STREAM, event("b")), says(STREAM, event("b")))
    first_of(said).way = says(STREAM, event("a"), LostError())
    told = streamed(said, **drawn)
    assert told[0]["choices"][0]["delta"]["content"] == "a"
    assert told[-1]["error"]["code"] == "replica_lost"
    assert len(told) == 2
    assert len(said.asked) == 1


def test_when_all_are_lost_the_client_is_asked_to_come_again():
    said = crew(says(LostError()), says(LostError()))
    response = ask(said)
    error(response, 503, "replica_lost")
    assert response.headers["retry-after"]
    assert len(said.asked) == TRIES


def test_a_full_queue_is_not_a_lost_replica():
    response = ask(crew(says(FullError())))
    error(response, 429, "queue_full")
    assert response.headers["retry-after"]


def test_a_silent_stream_is_given_up():
    told = events(ask(crew(says(STREAM, event("a"), 30.0)), patience=Patience(0.2, 0.2)))
    assert told[-1]["error"]["code"] == "replica_lost"


def test_whoever_waits_for_a_worker_that_is_gone_gets_another():
    said = crew(says(JSON, b"{}"), says(JSON, b"{}"))
    first = first_of(said)
    gone = Worker(first.worker, says(30.0), state="gone", ready=0)

    async def leaves(call: Call) -> AsyncGenerator[Part]:
        said.seen[first.worker] = gone
        await asyncio.sleep(30)
        yield JSON

    first.way = leaves
    assert ask(said).content == b"{}"


@pytest.mark.parametrize(
    ("fields", "sentence", "retry"),
    [
        ({"state": "loading"}, "still loading", True),
        ({"state": "failed", "reason": "no such folder"}, "no such folder", False),
        ({"state": "gone"}, "are gone", True),
    ],
)
def test_a_model_without_a_replica(fields, sentence, retry):
    said = crew(says(JSON, b"{}"), ready=0, **fields)
    response = ask(said)
    assert sentence in error(response, 503, "model_not_ready")
    assert ("retry-after" in response.headers) is retry


def test_an_unknown_model_and_bad_bodies():
    said = crew(says(JSON, b"{}"))
    assert "known: fake" in error(
        ask(said, lambda client: client.post("/v1/chat/completions", json={"model": "none"})),
        404, "model_not_found", "model",
    )  # fmt: skip
    for body, code in ((b"{", "invalid_json"), (b"[]", "invalid_value"), (b"{}", "missing_parameter")):
        kind = {"content-type": "application/json"}
        response = ask(said, lambda client, body=body: client.post("/tokenize", content=body, headers=kind))  # noqa: B023
        assert response.json()["error"]["code"] == code
    assert said.asked == []


def test_a_model_whose_workers_have_left_is_not_waited_for():
    """It had a replica, which is why one that is lost would be waited for."""
    said = crew(says(JSON, b"{}"))

    async def before_and_after(client: httpx.AsyncClient) -> httpx.Response:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        said.seen.clear()
        return await client.post("/v1/chat/completions", json=chat())

    response = ask(said, before_and_after, patience=Patience(3600, 3600), request_seconds=1)
    assert "known: none" in error(response, 404, "model_not_found", "model")


def test_the_list_of_models_counts_replicas():
    said = Crew(
        Worker("1", says(), ready=2, wanted=2),
        Worker("2", says(), ready=0, wanted=1, state="gone", reason="its worker is gone", facts={}),
        Worker("3", says(), "other", "failed", 0, 1, "it is damaged", {}),
    )
    one, other = ask(said, lambda client: client.get("/v1/models")).json()["data"]
    assert (one["state"], one["family"], one["replicas"]) == (
        "ready",
        "fake",
        {"ready": 2, "wanted": 3, "workers": 2},
    )
    assert (other["state"], other["reason"]) == ("failed", "it is damaged")
    assert ask(said, lambda client: client.get("/v1/models/other")).json() == other
    assert ask(said, lambda client: client.get("/ready")).status_code == 503
    assert ask(said, lambda client: client.get("/ready", params={"model": "fake"})).status_code == 200
    assert ask(Crew(), lambda client: client.get("/ready")).status_code == 503


def test_nobody_is_called_ready_who_was_not_seen_for_long():
    said = crew(says(JSON, b"{}"))
    said.unseen = 12.4
    (one,) = ask(said, lambda client: client.get("/v1/models")).json()["data"]
    assert (one["state"], one["replicas"]["ready"]) == ("gone", 0)
    assert "12 s" in one["reason"]
    assert ask(said, lambda client: client.get("/ready")).status_code == 503
    assert ask(said).content == b"{}"  # it may be there all the same


def test_metrics_are_gathered():
    said = crew(says(JSON, b"{}"))
    for process in ("one:1", "two:2"):
        metrics = Metrics()
        metrics.prompt_tokens.labels("fake").inc(3)
        metrics.first_token.labels("fake").observe(0.2)
        metrics.requests.labels("POST", "/v1/chat/completions", "200").inc()
        said.told.append((process, metrics.text()))
    shown = ask(said, lambda client: client.get("/metrics")).text
    for process in ("one:1", "two:2"):
        assert f'beholder_prompt_tokens_total{{model="fake",process="{process}"}} 3.0' in shown
    assert shown.count("# TYPE beholder_prompt_tokens_total counter") == 1
    assert shown.count("# TYPE beholder_time_to_first_token_seconds histogram") == 1
    assert 'status="200",process' not in shown


def test_keys_guard_the_answers_and_not_the_joining():
    said = crew(says(JSON, b"{}"))
    keys = Keys(["a-long-key"])
    error(ask(said, keys=keys), 401, "invalid_api_key")
    told = ask(said, lambda client: client.get("/cluster"), keys=keys).json()
    assert (told["ray"], told["session"]) == ("r", "s")


def test_workers_join_and_leave():
    said = crew(says(JSON, b"{}"))
    joining = Joining(worker="a" * 32, model=Model(name="mini"))
    stranger = joining.model_copy(update={"worker": "b" * 32})

    def join(one: Joining, **change: Any) -> httpx.Response:
        return ask(said, lambda client: client.post("/cluster/workers", json=one.model_dump() | change))

    for response, status, code in (
        (join(stranger), 403, "not_a_member"), (join(joining, speed=3), 400, "unknown_parameter")
    ):  # fmt: skip
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert Joining.model_validate(join(joining).json()) == joining
    where = f"/cluster/workers/{'a' * 32}"
    assert ask(said, lambda client: client.get(where)).json() == {"state": "loading"}
    assert ask(said, lambda client: client.delete(where)).json() == {"state": "leaving"}
    assert ask(said, lambda client: client.get(where)).json() == {"state": "gone"}


def test_blocks_that_travelled_together_are_told_and_resumed_as_one_by_one():
    whole = says(STREAM, OPENING + event("one"), KEEP_ALIVE + event(" two") + ENDING + DONE)
    said = crew(whole, whole)
    first_of(said).way = says(STREAM, OPENING + event("on"), LostError())
    told = streamed(said)
    assert text(told) == "one two"
    assert told[-1] == "[DONE]"
    assert [one["choices"][0].get("finish_reason") for one in told[:-1]].count("stop") == 1
    assert {one["id"] for one in told[:-1]} == {"1"}


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1}])
def test_only_words_count_as_said(drawn):
    said = crew(says(STREAM, OPENING + event("b") + DONE), says(STREAM, OPENING + event("b") + DONE))
    first_of(said).way = says(STREAM, KEEP_ALIVE + KEEP_ALIVE, LostError())
    told = streamed(said, **drawn)
    assert text(told) == "b"
    first_of(said).way = says(STREAM, KEEP_ALIVE + OPENING, LostError())
    told = streamed(said, **drawn)
    assert (told[-1] == "[DONE]") is not bool(drawn)


def _leaves(said: Crew, worker: str, state: str) -> Way:
    """A replica that is not ready any more, and answers all the same when it has taken its time."""

    async def way(_call: Call) -> AsyncGenerator[Part]:
        said.seen[worker] = Worker(worker, says(), state=state, ready=0)
        await asyncio.sleep(0.4 if state == "loading" else 30)
        yield JSON
        yield b'{"late":1}'

    return way


def test_a_worker_that_loads_again_is_waited_for_longer_than_one_that_is_gone(monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(relay, "GONE_SECONDS", 0.1)
    for state, taken in (("loading", True), ("gone", False)):
        said = crew(says(JSON, b"{}"), says(JSON, b"{}"))
        first = first_of(said)

        first.way = _leaves(said, first.worker, state)
        assert (ask(said, patience=Patience(5.0, 5.0)).content == b'{"late":1}') is taken


def test_a_client_that_leaves_is_told_to_the_replica():
    said = crew(says(STREAM, event("a"), 30.0))

    async def leave() -> None:
        ingress = create_ingress(said, Settings(), {"ray": "r", "session": "s"})  # pyright: ignore[reportArgumentType]
        parts = ingress.state.ingress.relay.answer("fake", Call("/v1/chat/completions", b"{}"))
        assert await anext(parts) == STREAM
        assert await anext(parts) == event("a")
        waiting = asyncio.create_task(anext(parts))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await parts.aclose()

    asyncio.run(leave())
    assert said.closed == 1


def test_a_replica_is_the_application_of_serve():
    here = Here()
    replica = Replica.__new__(Replica)
    replica.served, replica.app = here.registry.get("fake"), here.app

    async def listen(body: Any, most: int | None = None) -> list[Parcel]:
        call = Call(
            "/v1/chat/completions", json.dumps(body).encode(), ((b"content-type", b"application/json"),)
        )
        heard: list[Parcel] = []
        answer = replica.answer(call)
        async for parcel in answer:
            heard.append(parcel)
            if len(heard) == most:
                break
        await answer.aclose()
        return heard

    (whole,) = asyncio.run(listen(chat()))
    assert isinstance(whole, tuple)
    assert whole[0].status == 200
    assert json.loads(whole[1])["choices"]
    assert asyncio.run(listen(chat("slow", stream=True, max_tokens=5)))[-1].endswith(DONE)  # pyright: ignore
    assert len(asyncio.run(listen(chat("slow", stream=True), most=2))) == 2
    assert here.server.admission.inside == 0
