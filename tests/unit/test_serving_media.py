"""Pictures from strangers: what is fetched and decoded, and everything that is refused."""

from __future__ import annotations

import base64
import gc
import io
import ipaddress
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from PIL import Image
from tests import hostile_server as bad
from tests.hostile_server import HostileServer, drip, flood, raw, redirect, say

from beholder.serving import addresses
from beholder.serving.addresses import is_public
from beholder.serving.fetching import FetchLimits, read_url
from beholder.serving.media import MediaError, MediaPolicy, gif_frames, receive

STRICT = MediaPolicy()
MOST_BYTES = 60_000
LOOPBACK = MediaPolicy(
    most_frames=100,
    fetching=FetchLimits(most_bytes=MOST_BYTES, seconds=0.5, trusted_hosts=("127.0.0.1", "pictures.test")),
)
RED = (255, 0, 0)


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with bad.hostile_server() as running:
        yield running


def data_url(held: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(held).decode()}"


def refused(url: str, policy: MediaPolicy = LOOPBACK) -> MediaError:
    with pytest.raises(MediaError) as caught:
        receive(url, policy)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_by_data_url_and_by_address(server, kind):
    held = bad.picture(kind)
    for url in (data_url(held), server.url(f"/{kind}", say(held))):
        picture = receive(url, LOOPBACK)
        assert (picture.mode, picture.size) == ("RGB", (8, 4))
        assert all(abs(a - b) < 3 for a, b in zip(picture.getpixel((0, 0)), RED, strict=True))


def test_base64_may_lack_its_padding_and_be_wrapped():
    held = bad.picture() + b"\0"  # a length that needs padding
    whole = data_url(held)
    assert whole.endswith("=")
    assert receive(whole.rstrip("="), STRICT).size == (8, 4)
    assert receive(f"{whole[:60]}\n {whole[60:]}", STRICT).size == (8, 4)
    assert receive("DATA:" + whole[5:], STRICT).size == (8, 4)


def test_an_animation_gives_its_first_frame(server):
    picture = receive(server.url("/frames", say(bad.gif(99))), LOOPBACK)
    assert picture.getpixel((0, 0)) == RED


def test_what_a_sender_says_of_the_type_is_not_believed(server):
    held = bad.picture()
    assert receive(server.url("/a.html", say(held, "Content-Type: text/html")), LOOPBACK).size == (8, 4)
    assert receive(data_url(held, "text/plain"), STRICT).size == (8, 4)
    error = refused(server.url("/a.png", say(b"<html></html>", "Content-Type: image/png")))
    assert error.code == "unsupported_image"


def test_redirects_are_followed_and_relative_ones_too(server):
    server.url("/end", say(bad.picture()))
    server.url("/folder/two", redirect("../end", 307))
    assert receive(server.url("/one", redirect(server.url("/folder/two"), 301)), LOOPBACK).size == (8, 4)


def test_chunked_bodies(server):
    held = bad.picture()
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (held[:10], held[10:])) + b"0\r\n\r\n"
    answer = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert receive(server.url("/chunked", answer), LOOPBACK).size == (8, 4)


def test_what_is_asked_tells_nothing_about_the_user(server):
    receive(server.url("/seen?a=b c".replace(" ", "%20"), say(bad.picture())), LOOPBACK)
    request = server.requests[-1].decode().lower()
    assert request.startswith("get /seen?a=b%20c http/1.1")
    assert f"host: 127.0.0.1:{server.port}" in request
    assert not {"cookie", "authorization", "referer"} & set(request.replace(":", "").split())


# Addresses that must not be asked, however they are written. None of them reaches the network.
NOT_PUBLIC = [
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
    "http://localhost/", "http://LOCALHOST./", "http://0.0.0.0/", "http://0/", "http://10.0.0.1/",
    "http://172.16.5.4/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/", "http://198.18.0.1/",
    "http://224.0.0.1/", "http://255.255.255.255/", "http://240.0.0.1/", "http://[::1]/", "http://[::]/",
    "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://[ff02::1]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/", "http://[::127.0.0.1]/", "http://[2002:808:808::1]/", "http://[fec0::1]/",
    "http://[64:ff9b:1::7f00:1]/", "http://[2001:db8::1]/", "http://①②⑦.⓪.⓪.①/",
]  # fmt: skip


@pytest.mark.parametrize("url", NOT_PUBLIC)
def test_addresses_inside_are_refused(url):
    error = refused(url, STRICT)
    assert error.code == "invalid_image_url"
    assert "public" in str(error)


MALFORMED = [
    "file:///etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "picture.png", "", "//example.com/a.png",
    "ftp://example.com/a.png", "gopher://example.com/", "javascript:alert(1)", "http:///a.png", "http://",
    "http:a.png", "http://user:secret@example.com/", "http://example.com:0/", "http://example.com:99999/",
    "http://example.com:x/", "http://exam ple.com/", "http://example.com/a\r\nX: y", "http://example.com\\@b/",
    "http://exa\tmple.com/", "http://[::1", "http://[fe80::1%25eth0]/", "http://exa\x00mple.com/",
    "http://" + "a" * 64 + ".com/", "http://example.com/" + "a" * 9000, "http://exa%6dple.com/",
    "data:image/png,abc", "data:image/png;base64", "data:;base64,@@@@", "data:image/png;base64,AAAAA",
]  # fmt: skip


@pytest.mark.parametrize("url", MALFORMED, ids=lambda url: repr(url[:40]))
def test_malformed_addresses_are_refused(url):
    assert refused(url, STRICT).code in ("invalid_image_url", "invalid_image", "unsupported_image")


# What ends first, the time or the budget of bytes, is up to the machine.
UNREADABLE = ("invalid_image", "image_too_large")
EITHER = ("image_too_large", "image_not_received")

HOSTILE = {
    "missing": (say(b"", status="404 Not Found"), "image_not_received"),
    "server error": (say(bad.picture(), status="500 Oops"), "image_not_received"),
    "part only": (say(bad.picture(), status="206 Partial"), "image_not_received"),
    "redirect to a file": (redirect("file:///etc/passwd"), "invalid_image_url"),
    "redirect to data": (redirect(data_url(bad.picture())), "invalid_image_url"),
    "redirect inside": (redirect("http://10.0.0.1/"), "invalid_image_url"),
    "redirect to metadata": (redirect("http://169.254.169.254/"), "invalid_image_url"),
    "redirect to another loopback": (redirect("http://127.0.0.2/"), "invalid_image_url"),
    "redirect to nowhere": (say(b"", status="302 Found"), "image_not_received"),
    "redirect in a circle": (redirect("/redirect-in-a-circle"), "image_not_received"),
    "redirect with a user": (redirect("http://a:b@127.0.0.1/"), "invalid_image_url"),
    "redirect with a line break": (redirect("http://127.0.0.1/a b"), "invalid_image_url"),
    "told too long": (say(b"", length=10**12), "image_too_large"),
    "told longer than sent": (say(bad.picture(), length=5000), "image_not_received"),
    "told shorter than sent": (say(bad.picture(), length=40), "invalid_image"),
    "told no length and endless": (flood(b"\x89PNG\r\n\x1a\n" * 512, 10**9), "image_too_large"),
    "told a negative length": (say(b"", "Content-Length: -5", length=-1), "invalid_image"),
    "endless headers": (flood(b"a: b\r\n" * 100, 10**8, b"HTTP/1.1 200 OK\r\n"), "image_not_received"),
    "endless header line": (flood(b"a" * 4096, 10**8, b"HTTP/1.1 200 OK\r\na:"), "image_not_received"),
    "endless provisional answers": (flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 99, 10**9, b""), EITHER),
    "endless chunks": (
        flood(b"1\r\na\r\n" * 999, 10**9, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        EITHER,
    ),
    "chunk of negative size": (
        flood(b"a" * 9999, 10**9, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"),
        "image_too_large",
    ),
    "chunk of no size": (
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), "image_not_received"
    ),
    "dripping headers": (drip(b"HTTP/1.1 200 OK\r\n" * 99, 0.05), "image_not_received"),
    "dripping body": (drip(b"HTTP/1.1 200 OK\r\n\r\n" + bad.picture(), 0.05), "image_not_received"),
    "silence": (lambda _connection: time.sleep(1), "image_not_received"),
    "hanging up": (raw(b""), "image_not_received"),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "image_not_received"),
    "compressed": (say(b"\x1f\x8b\x08", "Content-Encoding: gzip"), "image_not_received"),
    "empty": (say(b""), "invalid_image"),
    "text": (say(b"hello"), "unsupported_image"),
    "drawing": (say(b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'), "unsupported_image"),
    "drawing as a picture": (
        say(b"<?xml version='1.0'?><svg/>", "Content-Type: image/png"), "unsupported_image"
    ),
    "document": (say(b"%PDF-1.7"), "unsupported_image"),
    "PostScript": (say(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "unsupported_image"),
    "TIFF": (say(b"II*\0" + b"\0" * 64), "unsupported_image"),
    "icon": (say(b"\0\0\1\0" + b"\0" * 64), "unsupported_image"),
    "bomb": (say(bad.png_bomb()), "image_too_large"),
    "bomb beyond Pillow's limit": (say(bad.png_bomb(2**31 - 1, 2**31 - 1, 0)), "image_too_large"),
    "many frames": (say(bad.gif(10_000)[:MOST_BYTES]), "image_too_large"),
    "script in a picture's clothes": (say(b"GIF89a/*" + b"\0" * 40 + b"*/=1;"), "invalid_image"),
    "archive behind a mark": (say(b"\xff\xd8\xffPK\3\4" + b"\0" * 99), "invalid_image"),
    "truncated PNG": (say(bad.picture(size=(400, 400))[:200]), "invalid_image"),
    "truncated JPEG": (say(bad.picture("JPEG", size=(400, 400))[:300]), "invalid_image"),
    "damaged WebP": (say(b"RIFF\xff\xff\xff\x7fWEBPVP8X" + b"\xff" * 40), UNREADABLE),
    "damaged BMP": (say(b"BM" + b"\xff" * 60), UNREADABLE),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers(server, name):
    answer, code = HOSTILE[name]
    start = time.monotonic()
    error = refused(server.url("/" + name.replace(" ", "-").replace("'", ""), answer))
    assert error.code in (code if isinstance(code, tuple) else (code,))
    assert len(str(error)) < 300
    assert time.monotonic() - start < 5


def test_memory_stays_flat(server):
    """Of an endless answer no more is held than the limit allows, and nothing is left of it."""
    url = server.url("/endless", flood(b"\x89PNG" * 4096, 10**9))
    bomb = server.url("/bomb", say(bad.png_bomb()))
    for address in (url, bomb):  # what is imported and kept once is no leak
        refused(address)
    gc.collect()
    tracemalloc.start()
    for _ in range(5):
        refused(url)
    refused(bomb)
    gc.collect()
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * MOST_BYTES
    assert left < 2 * MOST_BYTES


def test_a_polyglot_is_only_the_picture(server):
    """What follows the picture's end, here an archive, is not read by anybody."""
    held = bad.picture() + b"PK\3\4" + b"<script>" * 100
    picture = receive(server.url("/polyglot", say(held)), LOOPBACK)
    assert (picture.size, picture.info) == ((8, 4), {})


def test_redirect_limit(server):
    server.url("/0", say(bad.picture()))
    for number in range(1, 5):
        server.url(f"/{number}", redirect(f"/{number - 1}"))
    assert receive(server.url("/3"), LOOPBACK).size == (8, 4)
    assert "more than 3 times" in str(refused(server.url("/4")))


def test_the_limits_of_data_urls():
    small = MediaPolicy(most_pixels=31, fetching=FetchLimits(most_bytes=100))
    assert refused(data_url(b"\0" * 104), small).code == "image_too_large"
    assert "8 x 4" in str(refused(data_url(bad.picture()), MediaPolicy(most_pixels=31)))
    assert refused(data_url(bad.gif(1001)), STRICT).code == "image_too_large"
    assert receive(data_url(bad.gif(1000)), STRICT).size == (1, 1)


def test_a_name_that_resolves_differently_later_gains_nothing(server, monkeypatch):
    """The first resolution is checked and used; the name is never resolved a second time."""
    asked: list[str] = []

    def lookup(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["93.184.216.34"]

    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], **_: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(addresses, "lookup", lookup)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert refused("http://rebind.test/", STRICT).code == "image_not_received"
    assert asked == ["rebind.test"]
    assert connected == [("93.184.216.34", 80)]
    assert refused("http://rebind.test/", STRICT).code == "invalid_image_url"
    assert len(connected) == 1


def test_one_address_inside_spoils_a_name(monkeypatch):
    monkeypatch.setattr(addresses, "lookup", lambda _host, _port: ["93.184.216.34", "10.0.0.1"])
    assert "public" in str(refused("http://mixed.test/", STRICT))


def test_a_trusted_name_is_connected_where_it_resolved(server, monkeypatch):
    monkeypatch.setattr(addresses, "lookup", lambda _host, _port: ["127.0.0.1"])
    assert receive(server.url("/named", say(bad.picture()), host="pictures.test"), LOOPBACK).size == (8, 4)
    assert f"Host: pictures.test:{server.port}".encode() in server.requests[-1]
    assert refused(server.url("/named", host="other.test"), LOOPBACK).code == "invalid_image_url"


def test_a_resolver_that_hangs_ends_in_time(monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(addresses, "lookup", lambda _host, _port: [str(free.wait(5))])
    start = time.monotonic()
    assert "in time" in str(refused("http://slow.test/", LOOPBACK))
    free.set()
    assert time.monotonic() - start < 3


def test_the_allow_list(server):
    only = MediaPolicy(fetching=FetchLimits(only_hosts=("127.0.0.1",), trusted_hosts=("127.0.0.1",)))
    assert receive(server.url("/allowed", say(bad.picture())), only).size == (8, 4)
    assert "not accepted" in str(refused("http://example.com/a.png", only))
    # Being on the list does not make an address public.
    listed = MediaPolicy(fetching=FetchLimits(only_hosts=("127.0.0.1",)))
    assert "public" in str(refused(server.url("/allowed"), listed))
    assert "fetches no pictures" in str(refused(server.url("/allowed"), MediaPolicy(addresses=False)))


def test_proxies_of_the_environment_are_not_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert receive(server.url("/direct", say(bad.picture())), LOOPBACK).size == (8, 4)


def test_public_addresses_pass():
    for number in ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert is_public(ipaddress.ip_address(number)), number


def test_addresses_are_taken_apart():
    target = read_url("https://Bücher.example:8443/a b".replace(" ", "%20") + "?q=1#part")
    assert (target.host, target.port, target.path) == ("xn--bcher-kva.example", 8443, "/a%20b?q=1")
    assert read_url("http://[2606:4700::1111]/").authority == "[2606:4700::1111]"


def test_frames_of_damaged_animations():
    assert [gif_frames(bad.gif(7), 100), gif_frames(bad.gif(7), 3), gif_frames(bad.gif(7)[:40], 100)] == [
        7,
        3,
        2,
    ]
    assert gif_frames(b"GIF89a", 100) == 0


def test_pictures_are_turned_upright_and_flattened():
    held = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save(held, "PNG", exif=exif)
    picture = receive(data_url(held.getvalue()), STRICT)
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (4, 8), (255, 255, 255))
