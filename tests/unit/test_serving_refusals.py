"""What the server refuses, what it limits, and what it gives back when a client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import httpx
import pytest
from tests.serving_app import SECRET, Here, chat, error, events, image

from beholder.core.errors import ConfigError
from beholder.serving.settings import Keys, read_keys


@pytest.fixture
def here() -> Here:
    return Here()


REFUSED = {
    "tools": [{"type": "function"}], "functions": [{}], "tool_choice": "required", "function_call": "x",
    "audio": {"voice": "x"}, "modalities": ["audio"], "prediction": {"type": "content"}, "store": True,
    "reasoning_effort": "high", "verbosity": "low", "web_search_options": {}, "service_tier": "flex",
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_what_would_change_the_answer_and_is_not_supported(here, field):
    message = error(here.chat(**{field: REFUSED[field]}), 400, "unsupported_parameter", field)
    assert field in message
    assert not here.vlm.asked


def test_what_asks_for_nothing_special_is_taken(here):
    fields = {
        "tools": [], "tool_choice": "none", "modalities": ["text"], "store": False, "service_tier": "auto",
        "reasoning_effort": "none", "parallel_tool_calls": True, "response_format": {"type": "text"},
        "metadata": {"a": "b"}, "user": "x", "safety_identifier": "x", "prompt_cache_key": "x", "n": 1,
        "logit_bias": {}, "temperature": None, "stop": None, "stream": False, "functions": None,
    }  # fmt: skip
    assert here.chat(**fields).status_code == 200


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 10**30}, "invalid_value", "max_tokens"),
        ({"seed": 2**64}, "invalid_value", "seed"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop"),
        ({"n": 9}, "invalid_value", "n"),
        ({"top_logprobs": 2}, "invalid_value", None),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "invalid_value", None),
        ({"stream_options": {"include_usage": True}}, "invalid_value", None),
        ({"logit_bias": {"x": 1}}, "unsupported_parameter", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "unsupported_parameter", "logit_bias"),
        ({"response_format": {"type": "json_schema"}}, "missing_parameter", "response_format"),
        ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "hello"}, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missing_parameter", "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": "x", "name": "me"}]},
            "unsupported_parameter", "a message's name",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "invalid_value", "messages.0.content"),
        ({"messages": [{"role": "user", "content": " "}]}, "invalid_value", None),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_value", None),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "invalid_value", "messages.0.content.0",
        ),
        ({"messages": [{"role": "system", "content": [image()]}]}, "invalid_value", None),
        ({"f\ud800": 1}, "invalid_value", None),
    ],
)  # fmt: skip
def test_bad_fields(here, fields, code, param):
    body = json.dumps({**chat(), **fields}).encode()
    headers = {"content-type": "application/json"}
    response = here.run(lambda client: client.post("/v1/chat/completions", content=body, headers=headers))
    error(response, 400, code, param)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1]", b"null", b"[" * 100_000, b'{"model": 1e999}', b"\xff\xfe",
        b'{"seed":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_bad_bodies(here, body):
    headers = {"content-type": "application/json"}
    response = here.run(lambda client: client.post("/v1/chat/completions", content=body, headers=headers))
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_json_is_not_read(here):
    response = here.run(lambda client: client.post("/v1/chat/completions", content=b"{}"))
    error(response, 415, "unsupported_media_type")


def test_bad_pictures(here):
    def refused(part: Any, code: str) -> str:
        return error(here.chat([part, {"type": "text", "text": "?"}]), 400, code, "messages")

    refused(image(b"nothing"), "unsupported_image")
    assert "not opened" in refused(
        {"type": "image_url", "image_url": "file:///etc/passwd"}, "invalid_image_url"
    )
    refused({"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}, "invalid_image_url")
    assert "at most 2" in error(Here(most_pictures=2).chat([image()] * 3), 400, "too_many_images", "messages")


def test_errors_of_the_model(here):
    assert "is refused" in error(here.chat("refuse this"), 400, "invalid_value")
    response = here.chat("full")
    error(response, 503, "no_capacity")
    assert response.headers["retry-after"] == "1"


def test_what_nobody_foresaw_is_told_without_its_words(here, caplog):
    with caplog.at_level(logging.INFO, logger="beholder.serve"):
        for fields in ({}, {"stream": True}):
            response = here.chat("broken", **fields)
            assert "secret" not in response.text
            error(response, 500, "internal")
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 2
    assert here.metric("beholder_errors_total") == 2
    assert here.vlm.open == 0


def test_an_error_after_the_first_piece_is_an_event(here, caplog):
    *chunks, last = events(here.chat("breaks", stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "A red "
    assert last["error"]["code"] == "internal"
    assert here.server.admission.inside == 0


def test_an_unknown_model(here):
    assert "fake" in error(
        here.post("/v1/chat/completions", {**chat(), "model": "no"}), 404, "model_not_found", "model"
    )
    error(here.get("/v1/models/no"), 404, "model_not_found", "model")
    error(here.get("/v1/nothing"), 404, "not_found")
    error(here.get("/v1/chat/completions"), 405, "method_not_allowed")


def test_keys(caplog):
    here = Here(keys=Keys([SECRET, "another-long-key"]))
    with caplog.at_level(logging.DEBUG):
        error(here.chat(), 401, "invalid_api_key")
        error(here.get("/v1/models"), 401, "invalid_api_key")
        error(here.get("/v1/models", authorization="Bearer wrong-wrong"), 401, "invalid_api_key")
        error(here.get("/v1/models", authorization=f"Basic {SECRET}"), 401, "invalid_api_key")
        assert here.get("/v1/models", authorization=f"Bearer {SECRET}").status_code == 200
        assert here.get("/v1/models", authorization="bearer another-long-key").status_code == 200
        assert here.get("/health").status_code == 200
    assert SECRET not in caplog.text
    assert SECRET not in repr(vars(here.server.settings.keys))


def test_keys_are_read(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text(f"# ours\n{SECRET}\n\nanother-long-key\n")
    monkeypatch.setenv("BEHOLDER_API_KEYS", "third-long-key, ")
    keys = read_keys(tmp_path / "keys")
    assert [keys.number(key) for key in (SECRET, "another-long-key", "third-long-key", "no", "")] == [
        1,
        2,
        0,
        None,
        None,
    ]
    monkeypatch.setenv("BEHOLDER_API_KEYS", "short")
    with pytest.raises(ConfigError, match="shorter"):
        read_keys(None)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")
    monkeypatch.delenv("BEHOLDER_API_KEYS")
    (tmp_path / "keys").write_text("#\n")
    with pytest.raises(ConfigError, match="no key"):
        read_keys(tmp_path / "keys")
    assert not read_keys(None)


def test_the_size_of_a_body():
    here = Here(most_body_bytes=1000)
    error(here.chat("x" * 2000), 413, "body_too_large")

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 100

    headers = {"content-type": "application/json"}
    response = here.run(lambda client: client.post("/v1/chat/completions", content=pieces(), headers=headers))
    error(response, 413, "body_too_large")


def test_a_body_that_does_not_come():
    here = Here(body_seconds=0.1)

    async def pieces() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    headers = {"content-type": "application/json"}
    response = here.run(lambda client: client.post("/v1/chat/completions", content=pieces(), headers=headers))
    error(response, 408, "timeout")


def test_the_time_of_an_answer():
    here = Here(request_seconds=0.2)
    error(here.chat("wait"), 408, "timeout")
    *_, last = events(here.chat("slow", stream=True, max_tokens=400))
    assert last["error"]["code"] == "timeout"
    settle(here)


def settle(here: Here) -> None:
    """Everything was given back, within a step."""
    until = time.monotonic() + 2
    while (here.vlm.open or here.server.load.running) and time.monotonic() < until:
        time.sleep(0.005)
    assert (here.vlm.open, here.server.admission.inside) == (0, 0)


def test_the_queue():
    here = Here(most_running=1, most_waiting=1)

    async def three(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [chat("slow", max_tokens=5)] * 3
        return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))

    responses = here.run(three)
    assert sorted(response.status_code for response in responses) == [200, 200, 429]
    refused = next(response for response in responses if response.status_code == 429)
    error(refused, 429, "queue_full")
    assert refused.headers["retry-after"]
    assert here.chat().status_code == 200


def test_what_one_client_may_have():
    here = Here(most_per_client=1, keys=Keys([SECRET, "another-long-key"]))

    async def two(client: httpx.AsyncClient, keys: tuple[str, str]) -> list[int]:
        sent = [
            client.post(
                "/v1/chat/completions",
                json=chat("slow", max_tokens=5),
                headers={"authorization": f"Bearer {key}"},
            )
            for key in keys
        ]
        return sorted(response.status_code for response in await asyncio.gather(*sent))

    assert here.run(lambda client: two(client, (SECRET, SECRET))) == [200, 429]
    assert here.run(lambda client: two(client, (SECRET, "another-long-key"))) == [200, 200]


def test_while_it_drains(here):
    here.server.admission.is_draining = True
    response = here.chat()
    error(response, 503, "shutting_down")
    assert here.get("/ready").status_code == 503
    assert here.get("/health").status_code == 200


async def leave(app: Any, body: dict[str, Any], after: int) -> list[dict[str, Any]]:
    """Ask, and go away after so many messages of the answer; before the first with 0."""
    sent: list[dict[str, Any]] = []
    gone, asked = asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        if after:
            await gone.wait()
        else:
            await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == after:
            gone.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/chat/completions", "query_string": b"", "root_path": "", "client": ("1.2.3.4", 5),
        "headers": [(b"content-type", b"application/json")], "server": ("server", 80),
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 5)  # pyright: ignore[reportArgumentType]
    return sent


def test_a_client_that_goes_away_frees_its_slot(here):
    asyncio.run(leave(here.app, chat("slow", stream=True, max_tokens=600), 4))
    settle(here)
    assert here.vlm.steps < 10


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_before_the_first_token(here, stream):
    start = time.monotonic()
    asyncio.run(leave(here.app, chat("wait", stream=stream), 0))
    settle(here)
    assert time.monotonic() - start < 2
    assert here.metric("beholder_http_requests_total") >= 1
