"""Asks an OpenAI-compatible API: its models, streamed answers, and how a prompt is made where it says so."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from beholder.core.errors import BeholderError, ConfigError
from beholder.serving.addresses import is_loopback

TIMEOUT = httpx.Timeout(15.0, read=900.0)


class CallError(BeholderError):
    """The API refused, or could not be reached; the message is its cause."""


@dataclass(frozen=True)
class Part:
    """What one event of a stream brings."""

    text: str = ""
    boxes: tuple[Mapping[str, Any], ...] = ()
    reason: str | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Client:
    """An API by its base address, such as `http://127.0.0.1:8000/v1`."""

    base: str
    key: str = ""

    @classmethod
    def of(cls, address: str, key: str = "") -> Client:
        """From an address as people write it: with or without `/v1`."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{address!r} is no http(s) address; give one such as http://127.0.0.1:8000/v1")
        base = address.rstrip("/")
        return cls(base if base.endswith("/v1") else f"{base}/v1", key)

    def _open(self, key: str) -> httpx.AsyncClient:
        used = key or self.key
        headers = {"Authorization": f"Bearer {used}"} if used else {}
        # A proxy of the environment must not stand between the page and its own machine.
        outside = not is_loopback(urlsplit(self.base).hostname or "")
        return httpx.AsyncClient(headers=headers, timeout=TIMEOUT, trust_env=outside)

    async def models(self, key: str = "") -> list[dict[str, Any]]:
        """The models as `/v1/models` tells them."""
        told: Any = await self._call("GET", f"{self.base}/models", key)
        try:
            models: Any = told["data"]
        except (KeyError, TypeError):
            models = None
        if not isinstance(models, list):
            raise CallError(f"{self.base} does not list models as OpenAI's API does")
        return cast("list[dict[str, Any]]", models)

    async def explain(
        self, model: str, messages: Sequence[Mapping[str, Any]], template: str | None, key: str = ""
    ) -> dict[str, Any]:
        """The prompt of a conversation, its tokens and the views of its pictures."""
        body: dict[str, Any] = {"model": model, "messages": messages, "views": True}
        if template:
            body["template"] = template
        return await self._call("POST", f"{self.base.removesuffix('/v1')}/tokenize", key, body)

    async def _call(self, method: str, url: str, key: str, body: Any = None) -> Any:
        try:
            async with self._open(key) as client:
                response = await client.request(method, url, json=body)
        except httpx.HTTPError as error:
            raise CallError(f"{url} cannot be reached ({_cause(error)})") from None
        if response.is_error:
            raise CallError(_refusal(response))
        try:
            return response.json()
        except ValueError:
            raise CallError(f"{url} answers something else than JSON") from None

    async def stream(self, body: Mapping[str, Any], key: str = "") -> AsyncGenerator[Part]:
        """The answer to a chat as it comes; closing this ends it on the server too."""
        url = f"{self.base}/chat/completions"
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._open(key) as client, client.stream("POST", url, json=asked) as response:
                if response.is_error:
                    await response.aread()
                    raise CallError(_refusal(response))
                async for line in response.aiter_lines():
                    if line.startswith("data:") and (part := read_event(line[5:].strip())):
                        yield part
        except httpx.HTTPError as error:
            raise CallError(f"the connection to {url} broke ({_cause(error)})") from None


def read_event(text: str) -> Part | None:
    """One event of a stream; None for what says nothing."""
    if text == "[DONE]":
        return None
    try:
        told = json.loads(text)
    except ValueError:
        raise CallError("the answer breaks off in the middle") from None
    if error := told.get("error"):
        raise CallError(_message(error))
    choices: list[dict[str, Any]] = told.get("choices") or [{}]
    choice = choices[0]
    delta: dict[str, Any] = choice.get("delta") or {}
    part = Part(
        delta.get("content") or "", tuple(delta.get("boxes") or ()), choice.get("finish_reason"),
        told.get("usage"),
    )  # fmt: skip
    return part if part != Part() else None


def _cause(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _message(error: Any) -> str:
    """What an error object of the API says, or the error itself where it is a text."""
    if not isinstance(error, dict):
        return str(error)
    told = cast("dict[str, Any]", error)
    return str(told.get("message") or told)


def _refusal(response: httpx.Response) -> str:
    """What an error says, whoever's server it comes from."""
    try:
        message = _message(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = response.text.strip()[:300] or "no reason is given"
    return f"{message} (status {response.status_code})"
