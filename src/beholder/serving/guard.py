"""What every request passes before the application sees it: its id, key and size; and its line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beholder.serving.errors import APIError, from_exception, internal
from beholder.serving.logs import FIELDS
from beholder.serving.metrics import Metrics
from beholder.serving.settings import Settings

log = logging.getLogger("beholder.serve")

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# Routes by name in metrics and logs; what strangers try beside them has one name together.
ROUTES = (
    "/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/health", "/ready", "/metrics",
    "/version", "/docs", "/openapi.json",
)  # fmt: skip
POSTED = ("/v1/chat/completions", "/v1/completions", "/tokenize")
PROTECTED = ("/v1/", "/tokenize")
# Refused with these, a request's body has not been read.
BEFORE_THE_BODY = (401, 413, 415)
LINGER_SECONDS = 2.0
QUIET = ("/health", "/ready", "/metrics")


class Guard:
    """ASGI middleware around the application; what is no route of the API goes to the page, if any."""

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, page: ASGIApp | None = None
    ) -> None:
        self.app = app
        self.page = page or app
        self.settings = settings
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in or refuse it; whatever happens, it is answered, counted and logged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = _route(scope["path"])
        if route is None:
            await self.page(scope, receive, send)
            return
        await _Visit(self, scope, route, send).run(receive)


class _Visit:
    """One request."""

    def __init__(self, guard: Guard, scope: Scope, route: str, send: Send) -> None:
        self.guard, self.scope, self.route, self._send = guard, scope, route, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        self.start = time.perf_counter()
        self.status = 0
        scope["beholder.request_id"] = self.id

    async def run(self, receive: Receive) -> None:
        """From its headers to its line in the log."""
        try:
            self._identify()
            body = await self._body(receive) if self._has_body else b""
            await self.guard.app(self.scope, _replay(body, receive), self.send)
        except Exception as error:
            await self._refuse(error, receive)
        finally:
            self._record()

    @property
    def _has_body(self) -> bool:
        """Whether this is a request that is read; of another one the application says what is wrong."""
        return self.scope["method"] == "POST" and self.route in POSTED

    async def send(self, message: Message) -> None:
        """What the application says, with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.id
        await self._send(message)

    def _identify(self) -> None:
        """Who asks: a key, or an address where there are no keys."""
        client = self.scope.get("client") or ("unknown", 0)
        self.scope["beholder.client"] = f"address {client[0]}"
        keys = self.guard.settings.keys
        if not keys or not self.scope["path"].startswith(PROTECTED):
            return
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        number = keys.number(key.strip()) if scheme.lower() == "bearer" else None
        if number is None:
            raise APIError(401, "give a valid API key as `Authorization: Bearer ...`", code="invalid_api_key")
        self.scope["beholder.client"] = f"key {number}"

    async def _body(self, receive: Receive) -> bytes:
        """The whole body, within its limits of size and time."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise APIError(415, "send the body as application/json", code="unsupported_media_type")
        settings = self.guard.settings
        told = self.headers.get("content-length", "0")
        if told.isdecimal() and int(told) > settings.most_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(settings.body_seconds):
                return await self._read(receive)
        except TimeoutError:
            raise APIError(
                408, f"the body took longer than {settings.body_seconds:g} s to arrive", code="timeout"
            ) from None

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            body += message.get("body", b"")
            if len(body) > self.guard.settings.most_body_bytes:
                raise self._too_large()
            if not message.get("more_body"):
                return bytes(body)

    def _too_large(self) -> APIError:
        most = self.guard.settings.most_body_bytes
        return APIError(
            413, f"the body is larger than {most} bytes; send smaller pictures", code="body_too_large"
        )

    async def _refuse(self, error: Exception, receive: Receive) -> None:
        """Answer with the error; once the answer has begun, that is too late."""
        if isinstance(error, _GoneError):
            self.status = 499
            return
        refusal = from_exception(error) or internal()
        self.scope["beholder.failure"] = (refusal, error)
        if self.status:
            raise error
        await respond(refusal, self.send, receive if refusal.status in BEFORE_THE_BODY else None)

    def _record(self) -> None:
        """Count and log."""
        seconds = time.perf_counter() - self.start
        metrics = self.guard.metrics
        metrics.requests.labels(self.scope["method"], self.route, str(self.status)).inc()
        metrics.duration.labels(self.route).observe(seconds)
        failure: tuple[APIError, BaseException] | None = self.scope.get("beholder.failure")
        told: dict[str, Any] = {
            "request_id": self.id,
            "method": self.scope["method"],
            "path": self.route,
            "status": self.status,
            "seconds": round(seconds, 4),
            "client": self.scope.get("beholder.client"),
        }
        level = logging.DEBUG if self.route in QUIET else logging.INFO
        unforeseen = None
        if failure is not None:
            refusal, error = failure
            metrics.errors.labels(refusal.code).inc()
            told["error"] = refusal.code
            if from_exception(error) is None:
                level, unforeseen = logging.ERROR, error
        log.log(level, "request", extra={FIELDS: told}, exc_info=unforeseen)


class _GoneError(Exception):
    """The client went away before its request was complete."""


async def respond(
    refusal: APIError, send: Callable[[Message], Awaitable[None]], receive: Receive | None = None
) -> None:
    """An error as a whole response.

    With `receive`, what is still being sent is read for a while: a connection that is closed before is reset,
    and whoever is still sending would not see the answer.
    """
    body = refusal.encoded()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": receive is not None})
    if receive is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


def _route(path: str) -> str | None:
    """The name of a route of the API; None for the page."""
    if path.startswith("/v1/models"):
        return "/v1/models"
    if path in ROUTES:
        return path
    return "/v1" if path.startswith("/v1") else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body that has been read, then whatever else comes: that the client goes away."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
