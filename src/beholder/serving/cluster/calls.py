"""What travels between the ingress and a replica: a request as it came, and its answer as it goes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

HEADERS = (b"content-type", b"x-request-id")  # what of a request's headers a replica has a use for


@dataclass(frozen=True)
class Call:
    """A request for a replica. `key` says which conversation it continues, `client` who asked.

    `is_repeatable`: it is answered in the same words each time.
    """

    path: str
    body: bytes = field(repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    client: str = ""
    key: bytes = b""
    is_repeatable: bool = False


@dataclass(frozen=True)
class Head:
    """How an answer begins."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def is_stream(self) -> bool:
        """Whether events follow, and not one object."""
        return any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in self.headers
        )


Part = Head | bytes
Parcel = Part | tuple[Head, bytes]  # what travels at once; bytes alone are what Ray carries most cheaply


class LostError(Exception):
    """The replica is gone, or never got the request; what it had computed is lost with it."""


class FullError(Exception):
    """Too many requests wait for a replica already."""


class Caller(Protocol):
    """Whoever can bring a call to one of a worker's replicas."""

    def call(self, worker: str, call: Call) -> AsyncGenerator[Part]:
        """A `Head`, then the body; `LostError` or `FullError`. Closing it ends the work on the replica."""
        ...
