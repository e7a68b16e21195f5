"""Errors as OpenAI's API words them: a status, and an object with message, type, param and code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from beholder.core.errors import BeholderError, CapacityError, InputError
from beholder.serving.media import MediaError

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
RETRY_SECONDS = "1"


class APIError(Exception):
    """A refusal with its status; `retry` asks the client to come again."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = {"Retry-After": RETRY_SECONDS} if retry else {}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = TYPES.get(self.status, "invalid_request_error")
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    def encoded(self) -> bytes:
        """The error object as bytes, whatever somebody wrote into the text that it repeats."""
        return json.dumps(self.body()).encode("ascii")


def unsupported(param: str, reason: str) -> APIError:
    """A field that would change the answer and cannot be obeyed."""
    return APIError(400, f"{param} {reason}", code="unsupported_parameter", param=param)


def from_exception(error: BaseException) -> APIError | None:
    """The refusal for an error of the library; None for what nobody foresaw."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, MediaError):
        return APIError(400, str(error), code=error.code, param="messages")
    if isinstance(error, CapacityError):
        return APIError(503, str(error), code="no_capacity", retry=True)
    if isinstance(error, InputError):
        return APIError(400, str(error), code="invalid_value")
    if isinstance(error, BeholderError):
        return APIError(500, str(error), code="model_error")
    return None


def internal() -> APIError:
    """What is said of an error that nobody foresaw; the log has the rest."""
    return APIError(
        500, "the server made a mistake; its log tells more under this request's id", code="internal"
    )


def from_problems(problems: Sequence[Mapping[str, Any]]) -> APIError:
    """The refusal for what pydantic found: the problem that lies deepest is the one that was meant."""
    problem = max(problems, key=lambda found: len(_place(found["loc"])))
    place = _place(problem["loc"])
    param = ".".join(map(str, place)) or None
    kind = problem["type"]
    if kind == "extra_forbidden":
        return APIError(
            400, f"{param} is not a field that is known here", code="unknown_parameter", param=param
        )
    if kind == "missing":
        return APIError(400, f"{param or 'the body'} is missing", code="missing_parameter", param=param)
    if kind == "json_invalid":
        return APIError(400, "the body is not valid JSON", code="invalid_json")
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return APIError(400, f"{param or 'the body'}: {reason}", code="invalid_value", param=param)


def _place(location: Sequence[int | str]) -> list[int | str]:
    """Where a problem is, without the names that pydantic gives to the arms of a union."""
    place: list[int | str] = []
    for step in location[1:] if location and location[0] == "body" else location:
        is_arm = isinstance(step, str) and (step in ("str", "ImageURL") or "[" in step or "(" in step)
        if not is_arm and (not place or place[-1] != step):
            place.append(_printable(step))
    return place


def _printable(step: int | str) -> int | str:
    """A key as somebody sent it, fit to be repeated."""
    return step if isinstance(step, int) else step[:100].encode("utf-8", "backslashreplace").decode()
