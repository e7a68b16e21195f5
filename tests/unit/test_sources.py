"""Where a picture may come from besides a plain path: open files, pipes, odd data URLs and addresses."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.processing import sources
from beholder.processing.images import open_picture

COLOUR = (1, 2, 250)


def png() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (3, 2), COLOUR).save(held, "PNG")
    return held.getvalue()


# The byte behind the picture is read by nobody; with it the length is none that needs no padding.
ENCODED = base64.b64encode(png() + b"\0").decode()


def shows(source: Any) -> bool:
    picture = open_picture(source)
    return picture.size == (3, 2) and picture.getpixel((2, 1)) == COLOUR


def test_open_files(tmp_path: Path):
    path = tmp_path / "a b.png"
    path.write_bytes(png())
    assert shows(io.BytesIO(png()))
    assert shows(memoryview(png()))
    with path.open("rb") as file:
        assert shows(file)
    with tempfile.SpooledTemporaryFile() as file:
        file.write(png())
        file.seek(0)
        assert shows(file)
    with path.open(encoding="latin-1") as file, pytest.raises(InputError, match=r"open it in binary mode"):
        open_picture(file)


def test_a_pipe_is_read_whole(monkeypatch: pytest.MonkeyPatch):
    """What `beholder ask <(curl ...)` hands over."""

    def piped() -> str:
        reader, writer = os.pipe()
        os.write(writer, png())
        os.close(writer)
        return f"/dev/fd/{reader}"

    name = piped()
    assert shows(name)
    os.close(int(name.rpartition("/")[2]))
    monkeypatch.setattr(sources, "MOST_BYTES", 20)
    name = piped()
    with pytest.raises(InputError, match="is larger than"):
        open_picture(name)
    os.close(int(name.rpartition("/")[2]))


def test_file_urls(tmp_path: Path):
    path = tmp_path / "a b.png"
    path.write_bytes(png())
    assert shows(path.as_uri())
    assert shows(f"file://localhost{quote(str(path))}")
    with pytest.raises(InputError, match=r"names a file of elsewhere"):
        open_picture(f"file://elsewhere{path}")
    with pytest.raises(InputError, match=r"no such file: file:/"):
        open_picture(Path(path.as_uri()))


def test_an_empty_path():
    for path in ("", "  "):
        with pytest.raises(InputError, match="the path of the picture is empty"):
            open_picture(path)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + ENCODED.rstrip("="),
        "data:image/png;base64," + quote(ENCODED, safe=""),
        "data:image/png;base64,\n" + ENCODED[:9] + " \r\n\t" + ENCODED[9:] + "\n",
        "data:image/png; base64," + ENCODED,
        "DATA:image/png;name=a.png;BASE64," + ENCODED,
        "data:;base64," + ENCODED,
        "data:text/plain;base64," + ENCODED,
    ],
    ids=["unpadded", "percent-encoded", "white space", "blank", "capitals", "no type", "another type"],
)
def test_data_urls_as_browsers_read_them(url: str):
    assert ENCODED.endswith("==")
    assert shows(url)


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64s,abcd", "data:base64,abcd"])
def test_other_data_urls(url: str):
    with pytest.raises(InputError, match="not of the form data:image/png;base64"):
        open_picture(url)


class Handler(BaseHTTPRequestHandler):
    """Serves the picture under a name beyond ASCII, with no picture's type; drips bytes elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path == "/" + quote("图 é.png") + "?a=%20" + quote("ü"):
            self.wfile.write(png())
            return
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.01)
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_address_beyond_ascii_whatever_its_type(server: str):
    assert shows(f"{server}/图 é.png?a=%20ü#part")


def test_a_server_that_drips_is_left(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "DOWNLOAD_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"cannot be reached \(it was not received within 0\.2 s\)"):
        open_picture(f"{server}/slow.png")


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1/a.png", "http://127.0.0.1:x/a.png", "https://a\nb/c.png"]
)
def test_broken_addresses(url: str):
    with pytest.raises(InputError, match="cannot be reached"):
        open_picture(url)
