"""What `serving_soak.py` sends: requests that have one right answer, and requests that deserve a refusal."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import beholder
from beholder.benchmarking.material import picture
from beholder.mini.drawing import draw_scene
from beholder.mini.fonts import FontBook
from beholder.mini.worlds import scene_at

MODEL = "beholder-mini"
KEY = "a-key-for-this-soak"
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
QUESTIONS = (
    "What shape is red?", "How many shapes are there?", "Describe the picture.", "Is there a star?",
    "What is left of the red shape?", "What is the largest shape?", "图中有什么？",
)  # fmt: skip
SCENES = 24
ANSWER_TOKENS = 24
Reply = tuple[int, bytes, bytes]  # status, headers, body
Case = tuple[str, int, Callable[[int], Awaitable[Reply]]]  # name, the status it deserves, how it is sent


@dataclass(frozen=True)
class Good:
    """A request, and the texts that its answers must have."""

    name: str
    path: str
    body: dict[str, Any]
    answers: list[str]


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


def shown(held: bytes, kind: str = "png") -> dict[str, Any]:
    """A file's bytes as a part of a message."""
    url = f"data:image/{kind};base64," + base64.b64encode(held).decode("ascii")
    return {"type": "image_url", "image_url": {"url": url}}


def chat(content: Any, **fields: Any) -> dict[str, Any]:
    """A conversation of one question."""
    told = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": ANSWER_TOKENS}
    return told | fields


def good_ones(vlm: beholder.VLM, seed: int) -> list[Good]:
    """Requests with the answers of the library, one after the other and offline."""
    fonts, draw = FontBook(), random.Random(seed)
    found: list[Good] = []
    for number in range(SCENES):
        held = png(draw_scene(scene_at(seed, "test", number, fonts), fonts))
        for question in draw.sample(QUESTIONS, 3):
            content = [shown(held), {"type": "text", "text": question}]
            found += answered(vlm, f"scene {number}, {question}", content, draw)
    for question in QUESTIONS:
        found += answered(vlm, question, question, draw)
    for text in ("A star", "The circle is", "What shape"):
        answer = vlm.complete(text, max_tokens=8).read().text
        for streamed in (False, True):
            body = {"model": MODEL, "prompt": text, "max_tokens": 8, "stream": streamed}
            found.append(Good(f"plain {text}", PLAIN, body, [answer]))
    return found


def answered(vlm: beholder.VLM, name: str, content: Any, draw: random.Random) -> list[Good]:
    """The same question whole, streamed, and drawn with a seed, twice."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    messages = [{"role": "user", "content": parts}]
    answer = vlm.chat(messages, max_tokens=ANSWER_TOKENS).text
    drawn: dict[str, Any] = {"temperature": 1.2, "top_p": 0.9, "seed": draw.randrange(10**6), "max_tokens": 8}
    two = [one.text for one in vlm.choices(messages, 2, **drawn)]
    return [
        Good(name, CHAT, chat(content), [answer]),
        Good(f"{name}, streamed", CHAT, chat(content, stream=True), [answer]),
        Good(f"{name}, drawn", CHAT, chat(content, **drawn, n=2), two),
        Good(f"{name}, drawn and streamed", CHAT, chat(content, **drawn, n=2, stream=True), two),
    ]


def worded(reply: bytes) -> list[str]:
    """The texts of an answer, whole or streamed; nothing where a stream did not come to its end."""
    if not reply.startswith((b"data:", b":")):
        choices = json.loads(reply)["choices"]
        return [one["message"]["content"] if "message" in one else one["text"] for one in choices]
    texts: dict[int, str] = {}
    lines = [line[5:].strip() for line in reply.split(b"\n") if line.startswith(b"data:")]
    if not lines or lines[-1] != b"[DONE]":
        return []
    for line in lines[:-1]:
        for one in json.loads(line)["choices"]:
            piece = one["delta"].get("content") or "" if "delta" in one else one["text"]
            texts[one["index"]] = texts.get(one["index"], "") + piece
    return [texts[index] for index in sorted(texts)]


async def send(port: int, held: bytes, leave_after: int | None = None) -> Reply:
    """Bytes to the server, and what it says until it closes; or until so many events, and then away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    try:
        with suppress(ConnectionError):  # refused before everything was sent; what it says is there to read
            writer.write(held)
            await writer.drain()
        if leave_after is None:
            headers, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            return int(headers.split(b" ", 2)[1]), headers, plain(headers, body)
        for _ in range(leave_after):
            await reader.readuntil(b"\n\n")
        return 0, b"", b""
    except asyncio.IncompleteReadError:  # it was complete before
        return 0, b"", b""
    except ConnectionError as error:
        return -1, b"", repr(error).encode()
    finally:
        writer.transport.abort() if leave_after is not None else writer.close()


def plain(headers: bytes, body: bytes) -> bytes:
    """A body without the sizes between its pieces, if it has them."""
    if b"chunked" not in headers.lower():
        return body
    found, place = bytearray(), 0
    while place < len(body):
        size, _, _ = body[place : place + 20].partition(b"\r\n")
        begin = place + len(size) + 2
        found += body[begin : begin + int(size, 16)]
        place = begin + int(size, 16) + 2
    return bytes(found)


def head(path: str, length: int, **headers: str) -> bytes:
    """A request's beginning, with the key and as JSON unless told otherwise."""
    told = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {KEY}",
        "Content-Length": str(length),
    }
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/1.1", "Host: server", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in told.items() if value]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def post(
    port: int, path: str, body: dict[str, Any] | bytes, *, leave_after: int | None = None, **headers: str
) -> Reply:
    """A request with a body; a dict travels as JSON."""
    held = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await send(port, head(path, len(held), **headers) + held, leave_after)


def refused(name: str, status: int, body: dict[str, Any] | bytes, path: str = CHAT, **headers: str) -> Case:
    """A case that is a body."""

    async def ask(port: int) -> Reply:
        return await post(port, path, body, **headers)

    return name, status, ask


def png_of(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel that is mostly missing."""

    def block(name: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))

    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packed = zlib.compress(b"\0" * (4000 * (width // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", packed) + block(b"IEND", b"")


def gif(frames: int) -> bytes:
    """An animation of one-pixel frames."""
    first = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\xff\0\0\0\0\0"
    return (
        first + (b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00") * frames + b"\x3b"
    )


def asked(part: Any) -> dict[str, Any]:
    """A question about a picture that cannot be used."""
    return chat([part, {"type": "text", "text": "What is this?"}])


def address(url: str) -> dict[str, Any]:
    """A picture behind an address."""
    return asked({"type": "image_url", "image_url": {"url": url}})


SMALL = png(Image.new("RGB", (8, 8), "red"))
NOISE = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)

REFUSED: list[Case] = [
    refused("no JSON", 400, b"{"),
    refused("nothing", 400, b""),
    refused("deep JSON", 400, b"[" * 20_000),
    refused("no object", 400, b"[1]"),
    refused("half a letter", 400, json.dumps(chat("\ud800")).encode()),
    refused("another type", 415, chat("?"), Content_Type="text/plain"),
    refused("no key", 401, chat("?"), Authorization=""),
    refused("wrong key", 401, chat("?"), Authorization="Bearer wrong-wrong"),
    refused("no such model", 404, chat("?", model="gpt-4o")),
    refused("no such route", 404, chat("?"), "/v1/embeddings"),
    refused("another method", 405, chat("?"), "/v1/models"),
    refused("unknown field", 400, chat("?", temprature=1)),
    refused("tools", 400, chat("?", tools=[{"type": "function", "function": {"name": "f"}}])),
    refused("too hot", 400, chat("?", temperature=3)),
    refused("no tokens", 400, chat("?", max_tokens=0)),
    refused("many answers", 400, chat("?", n=100)),
    refused("many stops", 400, chat("?", stop=["a"] * 5)),
    refused("no question", 400, chat("  ")),
    refused("another template", 400, chat("?", template="shout")),
    refused("a schema without one", 400, chat("?", response_format={"type": "json_schema"})),
    refused("a picture of the system", 400, {
        "model": MODEL, "messages": [{"role": "system", "content": [shown(SMALL)]}],
    }),
    refused("too long", 400, chat("word " * 5000)),
    refused("many pictures", 400, chat([shown(SMALL)] * 17)),
    refused("no base64", 400, address("data:image/png;base64,@@@@")),
    refused("no picture", 400, asked(shown(b"nothing at all"))),
    refused("half a picture", 400, asked(shown(png(picture(1, (64, 64)))[:900]))),
    refused("an SVG", 400, asked(shown(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"))),
    refused("a file of the server", 400, address("file:///etc/passwd")),
    refused("the server itself", 400, address("http://127.0.0.1:1/")),
    refused("metadata", 400, address("http://169.254.169.254/latest/meta-data/")),
    refused("no address", 400, address("http://[::1")),
]  # fmt: skip


async def announced(port: int) -> Reply:
    """A body that says it is enormous and never comes."""
    return await send(port, head(CHAT, 10**12))


async def unannounced(port: int) -> Reply:
    """A body in pieces, more of it than may be."""
    told = head(CHAT, 0, Content_Length="", Transfer_Encoding="chunked")
    return await send(port, told + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 48 + b"0\r\n\r\n")


OVERSIZED: list[Case] = [
    ("announced", 413, announced),
    ("unannounced", 413, unannounced),
    refused("a large picture", 413, asked(shown(png(Image.fromarray(NOISE))))),
    refused("900 megapixels", 400, asked(shown(png_of(30_000, 30_000)))),
    refused("51 megapixels", 400, asked(shown(png_of(8_000, 6_400)))),
    refused("10,000 frames", 400, asked(shown(gif(10_000), "gif"))),
]
