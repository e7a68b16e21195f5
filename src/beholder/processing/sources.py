"""Where a picture may come from: a path, a web address, a data URL, bytes, an open file. Nothing is decoded.

What cannot be read is an `InputError` that says in one sentence why.
"""

from __future__ import annotations

import base64
import http.client
import io
import os
import string
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote_to_bytes, urlsplit

from beholder.core.errors import InputError

MOST_BYTES = 64 * 2**20  # of what comes through a network or a pipe
DOWNLOAD_SECONDS = 20.0
PIECE_BYTES = 2**16
SHOWN_LETTERS = 200  # of a path, in an error


@contextmanager
def opened_source(source: object) -> Generator[tuple[BinaryIO, str]]:
    """The bytes of a picture as a binary file that can be rewound, and what errors call it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(cast("bytes", source)), "the picture"
    elif isinstance(source, (str, os.PathLike)):
        with _named(os.fspath(cast("str | os.PathLike[str]", source)), isinstance(source, str)) as opened:
            yield opened
    elif callable(read := getattr(source, "read", None)):
        yield io.BytesIO(_bytes_of(read)), "the picture"
    else:
        raise InputError(
            f"a picture cannot be a {type(source).__name__}; give a path, a URL, a data URL, bytes, "
            "an open binary file, a Pillow image or a uint8 numpy array"
        )


@contextmanager
def _named(name: str, may_be_address: bool) -> Generator[tuple[BinaryIO, str]]:
    """What a string names. A `Path` is never an address."""
    scheme = name[:8].lower() if may_be_address else ""
    if scheme.startswith("data:"):
        yield io.BytesIO(_data_url_bytes(name)), "the picture in the data URL"
    elif scheme.startswith(("http://", "https://")):
        yield io.BytesIO(_download(name)), name
    else:
        path = _path_of(name) if scheme.startswith("file://") else name
        shown = name if len(name) <= SHOWN_LETTERS else f"{name[:SHOWN_LETTERS]}..."
        with _file(path, shown) as file:
            yield file, shown


def _file(path: str, shown: str) -> BinaryIO:
    """Open a file of this machine; what cannot be rewound, as a pipe, is read whole."""
    if not path.strip():
        raise InputError("the path of the picture is empty")
    try:
        file = open(path, "rb")
        if file.seekable():
            return file
        with file:
            held = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"no such file: {shown}") from None
    except IsADirectoryError:
        raise InputError(f"{shown} is a directory; give the path of one picture") from None
    except PermissionError:
        raise InputError(f"{shown} may not be read; check the permissions of the file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{shown} cannot be opened ({reason}); give the path of a picture") from None
    _check_length(held, shown)
    return io.BytesIO(held)


def _path_of(url: str) -> str:
    """The path in a `file:` URL of this machine."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{url} names a file of {parts.netloc}; give the path of a file on this machine")
    return urllib.request.url2pathname(parts.path)


def _bytes_of(read: Any) -> bytes:
    """What is left of an open file."""
    held = read()
    if not isinstance(held, bytes):
        raise InputError(
            f'the open file gives {type(held).__name__} where bytes are needed; open it in binary mode ("rb")'
        )
    return held


def base64_bytes(text: str) -> bytes:
    """Base64 as data URLs may have it: percent-encoded, with white space, without padding. Else ValueError.

    So browsers read it (WHATWG, forgiving-base64 decode).
    """
    packed = b"".join(unquote_to_bytes(text).split()).rstrip(b"=")
    return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)


def _data_url_bytes(url: str) -> bytes:
    """The bytes inside `data:image/...;base64,...`."""
    head, comma, body = url.partition(",")
    if not comma or head.replace(" ", "").lower().rpartition(";")[2] != "base64":
        raise InputError("the data URL is not of the form data:image/png;base64,...")
    try:
        return base64_bytes(body)
    except ValueError as error:
        raise InputError(f"the data URL does not hold valid base64 ({error})") from None


def _download(url: str) -> bytes:
    """The bytes behind a web address, up to a limit in size and time."""
    end = time.monotonic() + DOWNLOAD_SECONDS
    headers = {"User-Agent": "beholder", "Accept": "image/*,*/*;q=0.5"}
    try:
        request = urllib.request.Request(_spelled(url), headers=headers)
        with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as response:
            body = _received(response, end)
    except urllib.error.HTTPError as error:
        with error:
            raise InputError(f"{url} answered {error.code} {error.reason}; no picture was received") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise InputError(f"{url} cannot be reached ({reason}); check the address and the network") from None
    _check_length(body, url)
    return body


def _spelled(url: str) -> str:
    """The address as it is sent: blanks and letters beyond ASCII percent-encoded, as a browser does it."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return parts._replace(netloc=host, path=path, query=query, fragment="").geturl()


def _received(response: Any, end: float) -> bytes:
    """The body, at most one byte more than is accepted. A server that drips must not hold us for ever."""
    body = bytearray()
    while len(body) <= MOST_BYTES and (piece := response.read1(PIECE_BYTES)):
        body += piece
        if time.monotonic() > end:
            raise TimeoutError(f"it was not received within {DOWNLOAD_SECONDS:g} s")
    return bytes(body)


def _check_length(held: bytes, name: str) -> None:
    if len(held) > MOST_BYTES:
        raise InputError(f"{name} is larger than {MOST_BYTES // 2**20} MB; use a smaller picture")
