"""A web server on loopback that behaves badly on purpose, to test what fetches from strangers."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from PIL import Image

Answer = Callable[[socket.socket], None]


def picture(kind: str = "PNG", colour: str = "red", size: tuple[int, int] = (8, 4)) -> bytes:
    """A small picture file."""
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return held.getvalue()


def png_bomb(width: int = 30_000, height: int = 30_000, rows: int = 4000) -> bytes:
    """A PNG of few bytes that says it is enormous; its rows compress to almost nothing."""

    def chunk(name: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" * (rows * (width // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def gif(frames: int) -> bytes:
    """An animation of one-pixel frames, the first of them red."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\xff\0\0\0\0\0"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def say(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> Answer:
    """An ordinary answer; `length` is told instead of the true one, -1 tells none."""
    told = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *headers] + ([f"Content-Length: {told}"] if told >= 0 else [])
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def redirect(target: str, status: int = 302) -> Answer:
    """To somewhere else."""
    return say(b"", f"Location: {target}", status=f"{status} Found")


def raw(held: bytes) -> Answer:
    """Exactly these bytes."""
    return lambda connection: connection.sendall(held)


def drip(held: bytes, pause: float) -> Answer:
    """A byte now and then."""

    def answer(connection: socket.socket) -> None:
        for number in range(len(held)):
            connection.sendall(held[number : number + 1])
            time.sleep(pause)

    return answer


def flood(piece: bytes, most: int, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Answer:
    """The same piece over and over, until the reader leaves or `most` bytes were sent."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(most // len(piece)):
            connection.sendall(piece)

    return answer


class HostileServer:
    """Answers each path as its table says, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str, answer: Answer | None = None, host: str = "127.0.0.1") -> str:
        """The address of a path, which answers so from now on."""
        if answer is not None:
            self.answers[path] = answer
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        """No more."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request and (piece := connection.recv(4096)):
                request += piece
            path = request.split(b" ")[1].decode()
            self.asked.append(path)
            self.requests.append(request)
            self.answers.get(path, say(b"", status="404 Not Found"))(connection)


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """A server for the length of a test."""
    server = HostileServer()
    try:
        yield server
    finally:
        server.close()
