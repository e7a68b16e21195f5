"""The controller's application: OpenAI's routes brought to replicas, and those by which workers join."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

import beholder
from beholder.core.errors import BeholderError
from beholder.core.records import package_versions
from beholder.serving.admission import Admission
from beholder.serving.cluster.affinity import conversation_key
from beholder.serving.cluster.calls import HEADERS, Call, Head, Part
from beholder.serving.cluster.gathering import gathered
from beholder.serving.cluster.listing import doubtful, listed, one_model, told_states
from beholder.serving.cluster.plan import Joining, Plan
from beholder.serving.cluster.relay import Relay, SeenWorker, Workers
from beholder.serving.cluster.resuming import is_repeatable
from beholder.serving.errors import APIError, from_exception, from_problems, internal
from beholder.serving.guard import Guard
from beholder.serving.metrics import Metrics
from beholder.serving.settings import Settings
from beholder.serving.sse import EventStream, event, unless_gone

CODES = {404: "not_found", 405: "method_not_allowed"}
PASSED_ON = ("content-type", "retry-after")
READER_SECONDS = 60.0


class Members(Workers):
    """The workers with those that come and go; `fleet.Fleet`. `unseen`: for how many seconds nobody has been
    able to look at them, 0 as long as all is well."""

    plan: Plan
    unseen: float

    def is_member(self, worker: str) -> bool:
        """Whether its node is in the Ray cluster."""
        raise NotImplementedError

    def leave(self, worker: str) -> None:
        """Let it finish and go."""

    def is_gone(self, worker: str) -> bool:
        """Whether it has finished."""
        raise NotImplementedError

    def metrics(self) -> list[tuple[str, bytes]]:
        """Each replica's process, and what it shows."""
        raise NotImplementedError


class Ingress:
    """What the requests of one controller share."""

    def __init__(self, members: Members, settings: Settings, about: dict[str, str]) -> None:
        self.members = members
        self.settings = settings
        self.about = about  # what a worker needs to join: Ray's address and the cluster's session
        self.metrics = Metrics()
        self.admission = Admission(settings)
        self.relay = Relay(members, settings, self.metrics)
        self.metrics.watch("requests_running", "Answers on their way.", lambda: self.admission.inside)

    @property
    def seen(self) -> list[SeenWorker]:
        """The workers as they are told to those who ask for a list."""
        return doubtful(self.members.seen.values(), self.members.unseen)

    async def respond(self, request: Request) -> Response:
        """The answer of a replica to this request."""
        self.admission.refuse_while_draining()
        held = await request.body()
        body = read_body(held)
        headers = [(name, value) for name, value in request.scope["headers"] if name in HEADERS[:1]]
        headers.append((HEADERS[1], request.scope["beholder.request_id"].encode()))
        client: str = request.scope["beholder.client"]
        call = Call(
            request.url.path, held, tuple(headers), client, conversation_key(body), is_repeatable(body)
        )
        parts = self._held(client, str(body["model"]), call)
        first = None
        try:
            first = await unless_gone(anext(parts), request.receive)
        finally:
            if first is None:
                await parts.aclose()
        if not isinstance(first, Head):
            return Response(status_code=499)
        if first.is_stream:
            return EventStream(
                self._blocks(parts, request), parts.aclose, self.settings.request_seconds + READER_SECONDS
            )
        rest = [part async for part in parts if isinstance(part, bytes)]
        told = {name.decode(): value.decode() for name, value in first.headers}
        kept = {name: told[name] for name in PASSED_ON if name in told}
        return Response(b"".join(rest), first.status, kept)

    async def _held(self, client: str, model: str, call: Call) -> AsyncGenerator[Part]:
        """The answer, with a place held as long as it is open."""
        with self.admission.enter(client, 1):
            parts = self.relay.answer(model, call)
            try:
                async for part in parts:
                    yield part
            finally:
                await parts.aclose()

    async def _blocks(self, parts: AsyncGenerator[Part], request: Request) -> AsyncGenerator[bytes]:
        """The blocks of a stream; an error now is one more event, and then no [DONE] follows."""
        try:
            async for part in parts:
                if isinstance(part, bytes):
                    yield part
        except Exception as error:
            refusal = from_exception(error) or internal()
            request.scope["beholder.failure"] = (refusal, error)
            yield event(refusal.body())


def read_body(held: bytes) -> dict[str, Any]:
    """The request as JSON, as far as it must be known here; the replica reads the rest."""
    try:
        body: Any = json.loads(held)
    except ValueError:
        raise APIError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(body, dict):
        raise APIError(400, "the body is not a JSON object", code="invalid_value")
    told = cast("dict[str, Any]", body)
    if "model" not in told:
        raise APIError(400, "model is missing", code="missing_parameter", param="model")
    if not isinstance(told["model"], str):
        raise APIError(400, "model: give the name of a model", code="invalid_value", param="model")
    return told


def create_ingress(
    members: Members, settings: Settings, about: dict[str, str], page: FastAPI | None = None
) -> FastAPI:
    """The application of a controller; `page` gets everything but the routes of the API and of workers."""
    ingress = Ingress(members, settings, about)
    workers = worker_routes(ingress)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as running:
            if page is not None:
                await running.enter_async_context(page.router.lifespan_context(page))
            yield

    app = FastAPI(title="Beholder", version=beholder.__version__, lifespan=lifespan, redoc_url=None)
    app.state.ingress = ingress

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        chosen: ASGIApp = workers if scope["path"].startswith("/cluster") else page or app
        await chosen(scope, receive, send)

    app.add_middleware(Guard, settings=settings, metrics=ingress.metrics, page=outside)
    add_errors(app)
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        app.add_api_route(path, ingress.respond, methods=["POST"], response_class=Response)
    _add_models(app, ingress)
    _add_operations(app, ingress)
    return app


def add_errors(app: FastAPI) -> None:
    """Every error as OpenAI words it."""

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            code = CODES.get(error.status_code, "invalid_request")
            refusal = APIError(error.status_code, str(error.detail), code=code)
        else:
            refusal = from_exception(error) or internal()
        request.scope["beholder.failure"] = (refusal, refusal)
        return Response(refusal.encoded(), refusal.status, refusal.headers, media_type="application/json")

    for kind in (APIError, BeholderError, HTTPException):
        app.add_exception_handler(kind, refuse)


def _add_models(app: FastAPI, ingress: Ingress) -> None:
    @app.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, Any]:
        """All models with their limits and replicas, and why one is not ready."""
        return {"object": "list", "data": listed(ingress.seen, ingress.settings)}

    @app.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        found = one_model(ingress.seen, ingress.settings, name)
        if found is None:
            raise ingress.relay.refusal(name)
        return found


def _add_operations(app: FastAPI, ingress: Ingress) -> None:
    @app.get("/health", tags=["Operations"])
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/ready", tags=["Operations"])
    async def ready(model: str | None = None) -> JSONResponse:
        """Every model, or the one that is named, has a replica that answers, and requests are taken."""
        states = told_states(ingress.seen)
        asked = states if model is None else {model: states.get(model, "unknown")}
        is_ready = bool(asked) and set(asked.values()) == {"ready"} and not ingress.admission.is_draining
        told = {"status": "ready" if is_ready else "not ready", "models": asked}
        return JSONResponse(told, 200 if is_ready else 503)

    @app.get("/metrics", tags=["Operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics of this controller and of all replicas."""
        loop = asyncio.get_running_loop()
        replicas = await loop.run_in_executor(None, ingress.members.metrics)
        text = gathered(ingress.metrics.text(), replicas)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version", tags=["Operations"])
    async def version() -> dict[str, Any]:
        """Versions of Beholder and of the packages that can move a number."""
        return {"version": beholder.__version__, "packages": package_versions()}


def worker_routes(ingress: Ingress) -> FastAPI:
    """How workers join and leave.

    No API key is asked for: whoever joins must already be in the Ray cluster, and shows it by an id that only
    those can know. Who may be in the Ray cluster is Ray's to say (a network of its own, or its tokens).
    """
    app = FastAPI(openapi_url=None)
    add_errors(app)
    members = ingress.members

    @app.get("/cluster")
    async def about() -> dict[str, str]:
        return {**ingress.about, "version": beholder.__version__}

    @app.post("/cluster/workers")
    async def join(request: Request) -> dict[str, Any]:
        ingress.admission.refuse_while_draining()
        try:
            joining = Joining.model_validate_json(await _short_body(request))
        except ValidationError as error:
            raise from_problems(error.errors()) from None
        if not await _in_thread(members.is_member, joining.worker):
            raise APIError(
                403, "this worker's node is not in the Ray cluster of this controller",
                code="not_a_member", retry=True,
            )  # fmt: skip
        return members.plan.join(joining).model_dump(mode="json")

    @app.get("/cluster/workers/{worker}")
    async def state(worker: str) -> dict[str, Any]:
        seen = members.seen.get(worker)
        if seen is None:
            is_expected = worker in members.plan.workers()
            gone = members.is_gone(worker)
            return {"state": "loading" if is_expected else "gone" if gone else "leaving"}
        return {"state": seen.state, "ready": seen.ready, "wanted": seen.wanted, "reason": seen.reason}

    @app.delete("/cluster/workers/{worker}")
    async def leave(worker: str) -> dict[str, str]:
        await _in_thread(members.leave, worker)
        return {"state": "leaving"}

    return app


async def _short_body(request: Request) -> bytes:
    held = bytearray()
    async for block in request.stream():
        held += block
        if len(held) > 2**16:
            raise APIError(413, "what a worker says when it joins is short", code="body_too_large")
    return bytes(held)


async def _in_thread(function: Callable[[str], Any], worker: str) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, worker)
