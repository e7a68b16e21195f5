"""The application: routes of the OpenAI API and of operations. Everything they do is behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

import beholder
from beholder.core.errors import BeholderError
from beholder.core.records import package_versions
from beholder.serving import answering
from beholder.serving.completing import ChatCompletion, PlainCompletion
from beholder.serving.describing import explain, views, with_template
from beholder.serving.documenting import ANSWERED, ERRORS, READY, errors, guarded
from beholder.serving.errors import APIError, from_exception, from_problems, internal
from beholder.serving.guard import Guard
from beholder.serving.registry import LoadModel, Registry, Served
from beholder.serving.room import Share
from beholder.serving.schemas import ChatRequest, CompletionRequest, TokenizeRequest
from beholder.serving.settings import Settings
from beholder.serving.sharing import Server

CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    registry: Registry, settings: Settings, load: LoadModel | None = None, page: FastAPI | None = None
) -> FastAPI:
    """The application over some models; with `load`, those that are not loaded are loaded when it starts.

    `page` is an application of its own that gets everything but the API's routes.
    """
    server = Server(registry, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        if load is not None:
            registry.open_all(load)
        async with AsyncExitStack() as running:
            if page is not None:
                await running.enter_async_context(page.router.lifespan_context(page))
            yield
        registry.close()
        server.close()

    app = FastAPI(
        title="Beholder",
        version=beholder.__version__,
        description="Vision-language models behind the OpenAI API.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.server = server
    app.add_middleware(Guard, settings=settings, metrics=server.metrics, page=page)
    _add_errors(app)
    _add_completions(app, server)
    _add_models(app, server)
    _add_operations(app, server)
    return app


def _add_errors(app: FastAPI) -> None:
    """Every error as OpenAI words it."""

    async def refuse(request: Request, error: Exception) -> Response:
        refusal = _refusal(error)
        request.scope["beholder.failure"] = (refusal, refusal)
        return Response(refusal.encoded(), refusal.status, refusal.headers, media_type="application/json")

    for kind in (APIError, BeholderError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, refuse)


def _refusal(error: Exception) -> APIError:
    if isinstance(error, RequestValidationError):
        return from_problems(error.errors())
    if isinstance(error, HTTPException):
        refusal = APIError(
            error.status_code, str(error.detail), code=CODES.get(error.status_code, "invalid_request")
        )
        refusal.headers |= error.headers or {}  # a 405 says what is allowed instead
        return refusal
    return from_exception(error) or internal()


def _add_completions(app: FastAPI, server: Server) -> None:
    keyed = guarded(has_keys=bool(server.settings.keys))

    @app.post("/v1/chat/completions", tags=["OpenAI"], responses=ANSWERED, dependencies=keyed)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer the last message of a conversation, whole or as a stream of events."""
        server.admission.refuse_while_draining()
        return await ChatCompletion(server, body, request).respond()

    @app.post("/v1/completions", tags=["OpenAI"], responses=ANSWERED, dependencies=keyed)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Go on with a text as it is written, without a chat template."""
        server.admission.refuse_while_draining()
        return await PlainCompletion(server, body, request).respond()

    @app.post("/tokenize", tags=["Beholder"], responses=ERRORS, dependencies=keyed)
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """The tokens of a text, or of a conversation with template and pictures, and where those stand."""
        vlm = server.registry.ready(body.model)
        if body.messages is None:
            ids = await server.in_thread(answering.plain_ids, vlm, body.prompt or "")
            return {"count": len(ids), "max_model_len": vlm.context, "tokens": ids}
        vlm = with_template(vlm, body.template)
        with Share(server.room) as share:
            messages = await server.conversation(body.messages, share)
            told: dict[str, Any] = await server.in_thread(explain, vlm, messages)
            if body.views:
                told["views"] = await server.in_thread(views, vlm, messages)
            return told


def _add_models(app: FastAPI, server: Server) -> None:
    keyed = guarded(has_keys=bool(server.settings.keys))

    def described(served: Served) -> dict[str, Any]:
        most = server.settings.most_pictures
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "beholder",
            "state": served.state,
            "reason": served.reason,
            **served.facts,
            "pictures_per_request": min(most, served.facts.get("pictures_per_request", most)),
        }

    @app.get("/v1/models", tags=["OpenAI"], responses=errors(401), dependencies=keyed)
    async def models() -> dict[str, Any]:
        """All models with their limits, and why one is not ready."""
        return {"object": "list", "data": [described(served) for served in server.registry]}

    @app.get("/v1/models/{name:path}", tags=["OpenAI"], responses=errors(401, 404, 422), dependencies=keyed)
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return described(server.registry.get(name))


def _add_operations(app: FastAPI, server: Server) -> None:
    @app.get("/health", tags=["Operations"])
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/ready", tags=["Operations"], responses=READY)
    async def ready() -> JSONResponse:
        """Every model is loaded and has answered, and the server takes requests."""
        states = {
            served.name: "stopped" if served.has_died else served.reason or served.state
            for served in server.registry
        }
        is_ready = server.registry.is_ready and not server.admission.is_draining
        told = {"status": "ready" if is_ready else "not ready", "models": states}
        return JSONResponse(told, 200 if is_ready else 503)

    @app.get("/metrics", tags=["Operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version", tags=["Operations"])
    async def version() -> dict[str, Any]:
        """Versions of Beholder and of the packages that can move a number."""
        return {"version": beholder.__version__, "packages": package_versions()}
