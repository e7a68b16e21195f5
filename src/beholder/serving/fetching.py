"""Fetches what stands behind a stranger's http(s) address, within limits of bytes, time and redirects.

Only to addresses that `addresses.resolve` allowed, on every redirect, and connected to by number: a name that
resolves differently a moment later gains nothing. Proxies from the environment are not used, because behind
one nobody could say where a request ends.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from beholder.serving.addresses import AddressError, resolve

REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 64 * 1024
LONGEST_URL = 8192
LONGEST_SHOWN = 100
# Beyond the body itself: status line, headers, and the sizes between the pieces of a chunked body.
FRAMING_BYTES = 1024 * 1024
PORTS = {"http": 80, "https": 443}


class FetchError(AddressError):
    """What stands behind an address was not received."""


class TooManyBytesError(FetchError):
    """More was sent than may be taken."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """How far a fetch may go. With `only_hosts`, no others; `trusted_hosts` may be inside our own network."""

    most_bytes: int = 20 * 2**20
    seconds: float = 15.0
    redirects: int = 3
    only_hosts: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One address taken apart: what to connect to and what to ask for there."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as it is asked for; redirects are relative to it."""
        return f"{self.scheme}://{self.authority}{self.path}"


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The body behind an address. Raises FetchError or AddressError with a sentence for who sent it."""
    deadline = time.monotonic() + limits.seconds
    target = read_url(url)
    for _ in range(limits.redirects + 1):
        status, headers, body = _ask(target, limits, deadline)
        if status == 200:
            return body
        if status not in REDIRECTS:
            raise FetchError(f"{target.host} answered {status}; no picture was received")
        location = headers.get("Location")
        if not location:
            raise FetchError(f"{target.host} redirects to nowhere")
        target = read_url(urljoin(target.url, location.strip()))
    raise FetchError(f"the address redirects more than {limits.redirects} times; give the last one")


def read_url(url: str) -> Target:
    """Take an address apart; only plain http(s) addresses pass."""
    shown = url if len(url) <= LONGEST_SHOWN else f"{url[:LONGEST_SHOWN]}..."
    if len(url) > LONGEST_URL:
        raise AddressError(f"the address is {len(url)} characters long and at most {LONGEST_URL} are taken")
    if any(ord(letter) <= 32 or ord(letter) == 127 or letter == "\\" for letter in url):
        raise AddressError("the address has white space, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise AddressError(f"{shown!r} is not an address") from None
    if parts.scheme not in PORTS:
        raise AddressError(f"{shown!r} is not an http, https or data address; others are not opened")
    if parts.username is not None or parts.password is not None:
        raise AddressError("the address has a user name or password in it; leave them out")
    if not host or port == 0:
        raise AddressError(f"{shown!r} does not name a host and port")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    return Target(parts.scheme, _ascii_host(host, shown), port or PORTS[parts.scheme], path + query)


def _ascii_host(host: str, shown: str) -> str:
    """The host as DNS and the `Host` header have it."""
    if ":" in host:  # an IPv6 number; a zone would choose an interface of this machine
        if "%" in host:
            raise AddressError(f"{shown!r} has a network zone in it; leave it out")
        return host
    try:
        name = host.encode("idna").decode("ascii").lower().rstrip(".")
    except UnicodeError:
        raise AddressError(f"{shown!r} does not name a host") from None
    if not name or not all(letter.isalnum() or letter in "-._" for letter in name):
        raise AddressError(f"{shown!r} does not name a host")
    return name


def _ask(target: Target, limits: FetchLimits, deadline: float) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request to one of the target's addresses; the body of a 200 only."""
    trusted = target.host in limits.trusted_hosts
    if limits.only_hosts and target.host not in limits.only_hosts:
        raise AddressError(f"pictures from {target.host} are not accepted by this server")
    found = resolve(target.host, target.port, deadline - time.monotonic(), trusted=trusted)
    try:
        with _connect(found, target, deadline) as connection:
            return _converse(connection, target, limits, deadline)
    except AddressError:
        raise
    except TimeoutError:
        raise FetchError(f"{target.host} took longer than {limits.seconds:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(
            f"{target.host} cannot be read ({type(error).__name__}); check the address"
        ) from None


def _connect(found: list[str], target: Target, deadline: float) -> socket.socket:
    """A connection to the first of the addresses that takes one, with TLS checked against the name."""
    failure: OSError = OSError("no address")
    for address in found:
        try:
            plain = socket.create_connection((address, target.port), timeout=_left(deadline))
        except TimeoutError:
            raise
        except OSError as error:
            failure = error
            continue
        if target.scheme == "http":
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)
        except BaseException:
            plain.close()
            raise
    raise failure


def _converse(
    connection: socket.socket, target: Target, limits: FetchLimits, deadline: float
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Ask, and read the answer piece by piece."""
    connection.settimeout(_left(deadline))
    connection.sendall(
        f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\nUser-Agent: beholder\r\n"
        "Accept: image/*,*/*;q=0.5\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii")
    )
    wire: Any = _Wire(connection, deadline, limits.most_bytes + FRAMING_BYTES)
    with http.client.HTTPResponse(wire, method="GET") as response:
        response.begin()
        if response.status != 200:
            return response.status, response.headers, b""
        return 200, response.headers, _body(response, target, limits)


def _body(response: http.client.HTTPResponse, target: Target, limits: FetchLimits) -> bytes:
    """The whole body; neither its told length nor its told encoding is believed."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError(f"{target.host} sends the picture compressed though it was asked not to")
    told = response.length
    if told is not None and told > limits.most_bytes:
        raise TooManyBytesError(_too_many(target, limits))
    body = bytearray()
    while piece := response.read(CHUNK):
        body += piece
        if len(body) > limits.most_bytes:
            raise TooManyBytesError(_too_many(target, limits))
    if told is not None and len(body) < told:
        raise FetchError(f"{target.host} sent {len(body)} of {told} bytes")
    return bytes(body)


def _too_many(target: Target, limits: FetchLimits) -> str:
    return f"the picture from {target.host} is larger than {limits.most_bytes} bytes; send a smaller one"


def _left(deadline: float) -> float:
    """Seconds until the deadline; past it, a timeout."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Wire(io.RawIOBase):
    """A socket for reading, with one deadline and one budget of bytes for everything that comes.

    A timeout of the socket alone would start anew with every byte that drips in.
    """

    def __init__(self, connection: socket.socket, deadline: float, budget: int) -> None:
        super().__init__()
        self._connection, self._deadline, self._budget = connection, deadline, budget

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `http.client` asks of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes into `buffer`."""
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._budget -= count
        if self._budget < 0:
            raise TooManyBytesError("the address sends more than a picture of the size that is accepted")
        return count
