"""What pictures may hold together, and what is still read of a request that is refused."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest
import uvicorn
from tests.hostile_server import picture
from tests.serving_app import SECRET, Here, chat, error, image

from beholder.core.errors import CapacityError
from beholder.serving.draining import configured
from beholder.serving.media import MediaPolicy, decode
from beholder.serving.room import Room, Share
from beholder.serving.settings import Keys


def test_room_is_given_back_also_where_something_fails():
    room = Room(100)
    with Share(room) as share:
        share.take(60)
        share.take(40)
        with pytest.raises(CapacityError, match="0 megapixels are being looked at"), Share(room) as other:
            other.take(1)
        assert room.held == 100
    assert room.held == 0
    with pytest.raises(CapacityError, match="has ended"):
        share.take(1)
    assert room.held == 0


def test_one_picture_is_let_in_however_large():
    room = Room(10)
    with Share(room) as share:
        share.take(50)
        with pytest.raises(CapacityError):
            share.take(1)
    assert room.held == 0


def test_nothing_is_decoded_where_there_is_no_room():
    def refuse(pixels: int) -> None:
        raise CapacityError(f"{pixels}")

    with pytest.raises(CapacityError, match=r"^32$"):
        decode(picture(size=(8, 4)), MediaPolicy(), refuse)


def test_a_request_without_room_is_asked_to_come_again():
    here = Here(most_held_pixels=1000)
    assert here.chat([image(), {"type": "text", "text": "?"}]).status_code == 200  # 800 pixels
    response = here.chat([image(), image(), {"type": "text", "text": "?"}])
    error(response, 503, "no_capacity")
    assert response.headers["retry-after"]
    assert here.server.room.held == 0
    assert here.chat([image(), {"type": "text", "text": "?"}]).status_code == 200
    body = chat([image(), {"type": "text", "text": "?"}])
    assert here.post("/tokenize", {"model": "fake", "messages": body["messages"]}).status_code == 200
    assert here.server.room.held == 0


@pytest.fixture(scope="module")
def port() -> Any:
    """A server of its own with a small limit on bodies."""
    here = Here(most_body_bytes=10_000, keys=Keys([SECRET]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = free.getsockname()[1]
    server = uvicorn.Server(configured(here.app, "127.0.0.1", place, patience=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield place
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    ("key", "kind", "status"),
    [(SECRET, "application/json", b"413"), ("none", "application/json", b"401"), (SECRET, "text/x", b"415")],
)
def test_whoever_is_still_sending_sees_why_it_was_refused(port, key, kind, status):
    """A connection that is closed while bytes arrive is reset, and what was answered is lost with it."""
    size = 8_000_000
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + b" " * size)
        told = b""
        while piece := connection.recv(65536):
            told += piece
    assert told.startswith(b"HTTP/1.1 " + status)
    assert b'"error"' in told


def test_errors_say_what_would_be_allowed():
    here = Here(keys=Keys([SECRET]))
    assert here.get("/v1/models").headers["www-authenticate"] == "Bearer"
    refused = here.get("/v1/chat/completions", authorization=f"Bearer {SECRET}")
    error(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "1"},
        {"n": "2"},
        {"n": True},
        {"stream": "true"},
        {"stream": 1},
        {"logprobs": "yes"},
        {"temperature": -1e-9},
        {"repetition_penalty": 1e-9},
    ],
)
def test_values_that_cannot_be_meant(fields):
    assert Here().chat(**fields).status_code == 400


def test_a_temperature_may_be_as_near_to_zero_as_one_likes():
    assert Here().chat(temperature=1e-9).status_code == 200


def test_no_prompt_is_no_request():
    told = Here().post("/v1/completions", {"model": "fake", "prompt": []})
    error(told, 400, "invalid_value", "prompt")


def test_only_what_is_read_must_be_json():
    here = Here()
    for path in ("/version", "/health", "/v1/models"):
        refused = here.run(lambda client, path=path: client.post(path, content=b"x"))
        error(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "GET"


def test_the_page_of_the_api_tells_errors_streams_and_keys():
    told = Here(keys=Keys([SECRET])).get("/openapi.json").json()
    chats = told["paths"]["/v1/chat/completions"]["post"]
    assert set(chats["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"400", "401", "404", "408", "413", "415", "429", "500", "503"} <= chats["responses"].keys()
    assert chats["security"] == [{"HTTPBearer": []}]
    assert told["paths"]["/health"]["get"].get("security") is None
    open_to_all = Here().get("/openapi.json").json()
    assert "security" not in open_to_all["paths"]["/v1/chat/completions"]["post"]
