"""The server's application over a model that says what the test wants, and how tests ask it; no network."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fastapi import FastAPI
from tests.fake_vlm import WORDS, FakeVLM
from tests.hostile_server import picture

from beholder.serving.app import create_app
from beholder.serving.registry import Registry, Served
from beholder.serving.settings import Settings

TEXT = "".join(WORDS)
SECRET = "correct-horse-battery"
Call = Callable[[httpx.AsyncClient], Awaitable[Any]]


class Here:
    """An application over a fake model, and how to ask it."""

    def __init__(self, **settings: Any) -> None:
        self.vlm = FakeVLM()
        served = Served("fake", None)
        served.open(lambda _source: self.vlm)  # pyright: ignore[reportArgumentType]
        self.registry = Registry([served])
        self.app: FastAPI = create_app(self.registry, Settings(**settings))
        self.server = self.app.state.server

    def run(self, call: Call) -> Any:
        """Do something with a client."""

        async def inside() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            options: Any = {"transport": transport, "base_url": "http://server", "trust_env": False}
            async with httpx.AsyncClient(**options) as client:
                return await call(client)

        return asyncio.run(inside())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.run(lambda client: client.post(path, json=body, headers=headers))

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.run(lambda client: client.get(path, headers=headers))

    def chat(self, content: Any = "What?", **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", chat(content, **fields))

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


def chat(content: Any = "What?", **fields: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": content}], **fields}


def image(held: bytes | None = None, **fields: Any) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(held or picture(size=(40, 20))).decode()
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    told = response.json()["error"]
    assert told.keys() == {"message", "type", "param", "code"}
    assert (told["code"], told["param"]) == (code, param), told
    return told["message"]


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    told = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
    return [text if text == "[DONE]" else json.loads(text) for text in told]
