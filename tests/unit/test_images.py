"""Every way to hand over a picture, every way to get it wrong, and the pixel operations."""

from __future__ import annotations

import base64
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.processing import images, sources
from beholder.processing.images import (
    centre_crop,
    normalise,
    open_picture,
    pad_to_square,
)
from beholder.processing.resizing import resize, resize_shortest_edge


def pattern(height: int = 6, width: int = 9) -> np.ndarray:
    """RGB pixels that no mirroring or turning leaves as they are."""
    return (np.arange(height * width * 3).reshape(height, width, 3) % 251).astype(np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size and brings no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 1000) + b"IDAT"


@pytest.fixture
def server() -> Iterator[str]:
    """A web server on this machine: /picture.png is one, everything else is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.path == "/picture.png"
            self.send_response(200 if is_known else 404)
            self.end_headers()
            self.wfile.write(saved(Image.fromarray(pattern())) if is_known else b"nothing here")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_every_form_gives_the_same_pixels(tmp_path: Path, server: str):
    data = saved(Image.fromarray(pattern()))
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    opaque = np.dstack([pattern(), np.full(pattern().shape[:2], 255, np.uint8)])
    forms = {
        "path": path,
        "string": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "data URL": "data:image/png;base64," + base64.b64encode(data).decode(),
        "web address": f"{server}/picture.png",
        "Pillow": Image.open(io.BytesIO(data)),
        "RGB array": pattern(),
        "RGBA array": opaque,
        "strided array": np.repeat(pattern(), 2, axis=1)[:, ::2],
    }
    for name, form in forms.items():
        picture = open_picture(form)
        assert type(picture) is Image.Image, name
        assert picture.mode == "RGB", name
        np.testing.assert_array_equal(np.asarray(picture), pattern(), err_msg=name)


def test_grey_array_becomes_grey_rgb():
    grey = pattern()[..., 0]
    for form in (grey, grey[..., None]):
        np.testing.assert_array_equal(np.asarray(open_picture(form)), np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.png", b"", r"empty\.png is empty \(0 bytes\)$"),
        ("text.png", b"This is no picture.\n" * 20, r"text\.png is not a picture in a format"),
        ("cut.png", saved(Image.effect_noise((64, 64), 60))[:-900], r"cut\.png is truncated or damaged \("),
        (
            "cut.jpg",
            saved(Image.effect_noise((64, 64), 60), "JPEG")[:-900],
            r"cut\.jpg is truncated or damaged",
        ),
        ("cut.webp", saved(Image.effect_noise((64, 64), 60), "WEBP")[:-900], r"cut\.webp is "),
        (
            "cut.gif",
            saved(Image.effect_noise((64, 64), 60), "GIF")[:-900],
            r"cut\.gif is truncated or damaged",
        ),
        ("bomb.png", png_header(20_000, 20_000), "at most 100 megapixels are accepted"),
        ("large.png", png_header(10_001, 10_000), r"has 10001 x 10000 pixels and at most 100 megapixels"),
        ("below.png", png_header(10_000, 9_500), r"below\.png is truncated or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) and value[-4] == "." else "",
)
def test_bad_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        open_picture(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere/at/all.png", r"no such file: nowhere/at/all\.png$"),
        ("x" * 5000, r"^x{200}\.\.\. cannot be opened"),
        ("null\0byte.png", "cannot be opened"),
        ("data:image/png,abc", "not of the form data:image/png;base64"),
        ("data:image/png;base64", "not of the form"),
        ("data:image/png;base64,a?c=", "not hold valid base64"),
        ("data:image/png;base64,####", "not hold valid base64"),
        ("data:image/png;base64,", r"the picture in the data URL is empty"),
        (b"", r"the picture is empty \(0 bytes\)"),
        (b"neither here nor there", "the picture is not a picture in a format"),
        (7, "a picture cannot be a int; give a path"),
        (None, "a picture cannot be a NoneType"),
        (np.zeros((4, 4, 3), np.float32), r"dtype float32 and shape \(4, 4, 3\); a picture must be uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\); a picture must be uint8 of shape \(height"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\) has no pixels"),
        (Image.new("F", (2, 2)), "32-bit pixels"),
    ],
)
def test_bad_sources_are_one_sentence(source: Any, sentence: str):
    with pytest.raises(InputError, match=sentence) as caught:
        open_picture(source)
    assert "\n" not in str(caught.value)


def test_directory(tmp_path: Path):
    with pytest.raises(InputError, match="is a directory; give the path of one picture"):
        open_picture(tmp_path)


def test_web_address_that_has_nothing(server: str):
    with pytest.raises(InputError, match=r"/other\.png answered 404 Not Found"):
        open_picture(f"{server}/other.png")


def test_web_address_without_a_server():
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/a\.png cannot be reached \(.+\); check the"):
        open_picture("http://127.0.0.1:9/a.png")


def test_download_has_a_limit(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 20)
    with pytest.raises(InputError, match="is larger than"):
        open_picture(f"{server}/picture.png")


def test_the_limit_itself_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 54)
    assert open_picture(saved(Image.fromarray(pattern()))).size == (9, 6)
    with pytest.raises(InputError, match="7 x 8 pixels"):
        open_picture(Image.new("RGB", (7, 8)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_opened", [False, True])
def test_exif_orientation_is_applied(orientation: int, is_opened: bool):
    undo = [
        lambda a: a,
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.rot90(a),
        lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        lambda a: np.rot90(a, -1),
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](pattern())))
    data = saved(stored, exif=exif)
    picture = open_picture(Image.open(io.BytesIO(data)) if is_opened else data)
    np.testing.assert_array_equal(np.asarray(picture), pattern())


def test_a_picture_may_be_opened_again():
    """What was turned upright carries no note that would turn it a second time."""
    exif = Image.Exif()
    exif[0x0112] = 6
    once = open_picture(saved(Image.fromarray(pattern()), "JPEG", exif=exif, quality=100))
    assert once.size == (6, 9)
    assert once.info == {}
    np.testing.assert_array_equal(np.asarray(open_picture(once)), np.asarray(once))


def test_broken_exif_leaves_the_picture_as_it_is():
    data = saved(Image.fromarray(pattern()), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff")
    np.testing.assert_array_equal(np.asarray(open_picture(data)), pattern())


def transparent(mode: str) -> Image.Image:
    """Three pixels: black, half-transparent black where the mode can, fully transparent black."""
    if mode in ("LA", "RGBA", "La", "RGBa"):
        image = Image.new("RGBA", (3, 1))
        image.putdata([(0, 0, 0, 255), (0, 0, 0, 128), (0, 0, 0, 0)])
        return image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
    image = Image.new(mode, (3, 1))
    image.putdata([(1, 1, 1), (2, 2, 2), (0, 0, 0)] if mode == "RGB" else [1, 2, 0])
    if mode == "P":
        image.putpalette([255, 255, 255, 1, 1, 1, 2, 2, 2])
    image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    return image


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa", "P", "RGB", "L"])
def test_transparency_is_laid_on_white(mode: str):
    pixels = np.asarray(open_picture(transparent(mode)))[0, :, 0].tolist()
    assert pixels == ([0, 127, 255] if "a" in mode.lower() else [1, 2, 255])


def test_transparent_palette_file():
    image = transparent("P")
    assert np.asarray(open_picture(saved(image, transparency=0)))[0, :, 0].tolist() == [1, 2, 255]


def test_16_bit_grey_is_scaled():
    levels = np.array([[0, 255, 256, 0x8000, 65535]], np.uint16)
    picture = open_picture(saved(Image.fromarray(levels)))
    assert np.asarray(picture)[0, :, 1].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (1, 1), 1), (255, 255, 255)),
        (Image.new("L", (1, 1), 77), (77, 77, 77)),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("HSV", (1, 1), (0, 255, 255)), (255, 0, 0)),
        (Image.new("YCbCr", (1, 1), (255, 128, 128)), (255, 255, 255)),
    ],
)
def test_other_modes(image: Image.Image, expected: tuple[int, int, int]):
    assert open_picture(image).getpixel((0, 0)) == expected


def test_one_transparent_value_of_16_bit_grey():
    data = saved(Image.fromarray(np.array([[25600, 512]], np.uint16)), transparency=25600)
    assert np.asarray(open_picture(data))[0, :, 0].tolist() == [255, 2]


def test_the_a_of_lab_is_no_transparency():
    """In Pillow's 8 bits L* = 128 of 255 is grey: about 119 in sRGB."""
    red, green, blue = open_picture(Image.new("LAB", (1, 1), (128, 128, 128))).getpixel((0, 0))
    assert (abs(red - 119) <= 1, red, red) == (True, green, blue)


def test_damage_that_pillow_tells_in_another_way(monkeypatch: pytest.MonkeyPatch):
    """Its AVIF reader raises RuntimeError."""

    def load(_: Any) -> None:
        raise RuntimeError("Failed to decode image: Missing or empty image item")

    picture = Image.new("RGB", (2, 2))
    monkeypatch.setattr(type(picture), "load", load)
    with pytest.raises(InputError, match=r"truncated or damaged \(Failed to decode"):
        open_picture(picture)


def test_cmyk_jpeg():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.asarray(open_picture(saved(red, "JPEG"))).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animated_files_use_the_first_frame(kind: str, tmp_path: Path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    settings = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "moving"
    path.write_bytes(saved(frames[0], kind, save_all=True, append_images=frames[1:], **settings))
    assert open_picture(path).getpixel((3, 3)) == (255, 0, 0)


def test_the_callers_picture_stays_as_it_is():
    mine = Image.new("RGB", (4, 4), "red")
    open_picture(mine).putpixel((0, 0), (0, 0, 0))
    assert mine.getpixel((0, 0)) == (255, 0, 0)


def test_padding_puts_the_odd_pixel_right_and_below():
    wide = pad_to_square(Image.new("RGB", (5, 2), "white"), (1, 2, 3))
    assert [wide.getpixel((0, y)) for y in range(5)] == [(1, 2, 3)] + [(255,) * 3] * 2 + [(1, 2, 3)] * 2
    tall = pad_to_square(Image.new("RGB", (2, 5), "white"), (1, 2, 3))
    assert [tall.getpixel((x, 0))[0] for x in range(5)] == [1, 255, 255, 1, 1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((50, 30), (33, 20)), ((30, 50), (20, 33)), ((7, 7), (20, 20)), ((3, 100), (20, 666))],
)
def test_shortest_edge(size: tuple[int, int], expected: tuple[int, int]):
    assert resize_shortest_edge(Image.new("RGB", size), 20).size == expected


def test_centre_crop_rounds_down():
    row = Image.fromarray(np.arange(7, dtype=np.uint8)[None].repeat(4, axis=0))
    assert np.asarray(centre_crop(row, 4))[0].tolist() == [1, 2, 3, 4]


def test_normalise_is_the_arithmetic_on_every_byte():
    mean, std = (0.1, 0.5, 0.25), (0.2, 0.3, 0.7)
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    unit = (pixels.transpose(2, 0, 1).astype(np.float64) * (1 / 255)).astype(np.float32)
    expected = (unit - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    for given in (pixels, Image.fromarray(pixels)):
        result = normalise(given, mean, std)
        assert result.dtype == np.float32
        assert result.tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("size", "target", "first"),
    [
        ((53, 120), (56, 56), "height"),
        ((100, 120), (50, 20), "width"),  # exactly twice
        ((100, 121), (50, 20), "height"),
        ((100, 19), (120, 20), "width"),
        ((97, 61), (56, 56), "width"),
    ],
)
def test_which_side_is_resized_first_is_the_same_with_every_pillow(size, target, first):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    between = {"width": (target[0], size[1]), "height": (size[0], target[1])}
    told = {
        side: image.resize(step, Image.Resampling.BICUBIC).resize(target, Image.Resampling.BICUBIC).tobytes()
        for side, step in between.items()
    }
    assert told["width"] != told["height"]
    assert resize(image, target).tobytes() == told[first]
