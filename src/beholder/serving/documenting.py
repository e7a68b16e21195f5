"""What the OpenAPI page tells beside the requests' schemas: answers, errors, and how a key is given."""

from __future__ import annotations

from typing import Any

from fastapi import Depends
from fastapi.security import HTTPBearer

Responses = dict[int | str, dict[str, Any]]

TEXT = {"type": "string"}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT, "type": TEXT, "code": TEXT, "param": {"type": ["string", "null"]},
            },
        }
    },
}  # fmt: skip
RETRY = {"Retry-After": {"description": "Seconds after which to come again.", "schema": TEXT}}
EVENT = {"type": "object", "required": ["data"], "properties": {"data": TEXT}}
CAUSES: dict[int, str] = {
    400: "Something in the request cannot be obeyed; `param` says what.",
    401: "The API key is missing or wrong.",
    404: "There is no such model.",
    408: "The request or its answer took too long.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "Not used: bad values are 400, as in OpenAI's API.",
    429: "Too many requests.",
    500: "A mistake of the server.",
    503: "Not now.",
}


def errors(*statuses: int) -> Responses:
    """Errors that a route may answer with."""
    return {
        status: {
            "description": CAUSES[status],
            "content": {"application/json": {"schema": ERROR_SCHEMA}},
            **({"headers": RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


ERRORS = errors(*CAUSES)
ANSWERED: Responses = {
    200: {
        "description": "The answer; with `stream`, its events, of which the last is `[DONE]`.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": EVENT},
        },
    },
    **ERRORS,
}
READY: Responses = {503: {"description": "Not every model answers, or the server is shutting down."}}


def guarded(*, has_keys: bool) -> list[Any]:
    """For routes that ask for a key, where there are keys. It is checked before a route is reached."""
    return [Depends(HTTPBearer(auto_error=False))] if has_keys else []
