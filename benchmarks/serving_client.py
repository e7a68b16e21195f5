"""Many requests to a server at once, from a process of its own, for `serving_speed.py`.

It reads rounds from stdin, one JSON object a line, and writes what came of each to stdout. Answers are read
as bytes and understood only when all are complete: what a client does meanwhile is taken from the server,
where both run on one machine.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PIECE = 65536
FIRST = b'"content":'  # stands in the first event of a stream
LONGEST = 3600.0


@dataclass
class Exchange:
    """One request and what comes back; times in seconds since the round began."""

    connection: socket.socket
    request: bytes
    first: float | None = None
    end: float | None = None
    received: bytearray = field(default_factory=bytearray)

    def take(self, now: float) -> bool:
        """Read what is there; whether it is over."""
        piece = self.connection.recv(PIECE)
        self.received += piece
        if self.first is None and FIRST in self.received:
            self.first = now
        if piece:
            return False
        self.end = now
        return True


def head(path: str, port: int, length: int) -> bytes:
    """What stands before a body. The server closes the connection after its answer."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def run(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send all of them and read until each has ended."""
    exchanges: list[Exchange] = []
    for body in bodies:
        held = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchanges.append(Exchange(connection, head(path, port, len(held)) + held))
    begun = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for exchange in exchanges:
            exchange.connection.sendall(exchange.request)
            selector.register(exchange.connection, selectors.EVENT_READ, exchange)
        while selector.get_map():
            if not (ready := selector.select(LONGEST)):
                raise TimeoutError(f"nothing came for {LONGEST:g} s")
            now = time.perf_counter() - begun
            for key, _ in ready:
                if key.data.take(now):
                    selector.unregister(key.fileobj)
                    key.data.connection.close()
    return [understood(exchange) for exchange in exchanges]


def understood(exchange: Exchange) -> dict[str, Any]:
    """Status, times, text and counts of a complete answer."""
    headers, _, body = bytes(exchange.received).partition(b"\r\n\r\n")
    if b"chunked" in headers.lower():
        body = unchunked(body)
    status = int(headers.split(b" ", 2)[1])
    told: dict[str, Any] = {"status": status, "first": exchange.first, "end": exchange.end}
    if b"text/event-stream" not in headers:
        return {**told, "whole": json.loads(body)}
    lines = [line[5:].strip() for line in body.split(b"\n") if line.startswith(b"data:")]
    events = [json.loads(line) for line in lines if line and line != b"[DONE]"]
    choices = [event["choices"][0] for event in events if event.get("choices")]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    usage = [event["usage"] for event in events if event.get("usage")]
    errors = [event["error"] for event in events if "error" in event]
    return {
        **told,
        "text": text,
        "usage": usage[-1] if usage else None,
        "errors": errors,
        "events": len(events),
    }


def unchunked(body: bytes) -> bytes:
    """The body without the sizes between its pieces."""
    found, place = bytearray(), 0
    while place < len(body):
        size, _, _ = body[place : place + 20].partition(b"\r\n")
        length, begin = int(size, 16), place + len(size) + 2
        found += body[begin : begin + length]
        place = begin + length + 2
        if not length:
            break
    return bytes(found)


class Client:
    """The same from another process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, port: int, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One round; every answer must be a 200 without an error."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"port": port, "path": path, "bodies": bodies}) + "\n")
        process.stdin.flush()
        found: list[dict[str, Any]] = json.loads(process.stdout.readline())
        if bad := [one for one in found if one["status"] != 200 or one.get("errors")]:
            raise RuntimeError(f"{len(bad)} of {len(found)} requests failed, the first so: {bad[0]}")
        return found

    def close(self) -> None:
        """End the process: it ends when there is nothing more to read."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Run rounds until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
