"""Large pictures are resized with less work and to the same bytes; opened without a copy; several at once."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import beholder.api  # noqa: F401  (it lets large pictures be filtered natively)
from beholder.core.errors import InputError
from beholder.families.llava.views import LlavaImageProcessor
from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.generation.native import library as native
from beholder.generation.native import pictures
from beholder.processing import images, pages, resizing
from beholder.processing.bicubic import bicubic as bicubic_pass
from beholder.processing.images import adopt_picture, normalise, open_picture, open_pictures, pad_to_square
from beholder.processing.resizing import filter_with, resize, resize_on_square

COLOUR = (122, 116, 104)
SIZES = [(61, 40), (40, 61), (301, 7), (7, 301), (33, 33), (33, 34), (56, 90), (90, 56), (1, 9), (250, 249)]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


LEVELS = native.status().levels
INSTALLED = resizing._find_filter  # by what opens models


@pytest.fixture(autouse=True)
def pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test has opened may have put the native filter in."""
    monkeypatch.setattr(resizing, "_find_filter", lambda: None)


@pytest.fixture(params=["whole", "strips", *LEVELS])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also small pictures in strips, also where there is one core; natively, at every level there is."""
    monkeypatch.setattr(resizing, "threads", lambda: 3)
    if request.param != "whole":
        monkeypatch.setattr(resizing, "LARGE", 1)
        monkeypatch.setattr(resizing, "STRIP", 7)
    if request.param in LEVELS:
        monkeypatch.setattr(pictures, "ROWS", 7)
        monkeypatch.setattr(resizing, "_find_filter", lambda: pictures.Filter(request.param))
    return request.param


def bicubic(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Pillow itself, at once."""
    return image.resize(size, Image.Resampling.BICUBIC)


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [1, 8, 56, 97])
def test_a_square_that_is_never_made_gives_its_bytes(size: tuple[int, int], side: int):
    image = noise(size)
    wanted = bicubic(pad_to_square(image, COLOUR), (side, side))
    assert resize_on_square(image, COLOUR, side).tobytes() == wanted.tobytes()


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(56, 56), (20, 90), (90, 20), (61, 40), (3, 2)])
def test_strips_give_the_bytes_of_the_whole(size: tuple[int, int], target: tuple[int, int]):
    image = noise(size)
    between = image
    if image.height - target[1] > max(0, 2 * (image.width - target[0])):
        between = bicubic(image, (image.width, target[1]))
    assert resize(image, target).tobytes() == bicubic(between, target).tobytes()


@pytest.mark.parametrize("cores", [1, 2])
def test_large_pictures_are_cut_into_strips(cores: int, monkeypatch: pytest.MonkeyPatch):
    """At the real limits; one core cuts only where rows get a border."""
    monkeypatch.setattr(resizing, "threads", lambda: cores)
    wide, tall = noise((2100, 1003)), noise((1003, 2100))
    wanted = [bicubic(pad_to_square(image, COLOUR), (56, 56)).tobytes() for image in (wide, tall)]
    cut_down = resize_on_square(wide, COLOUR, 300).tobytes()
    assert cut_down == bicubic(pad_to_square(wide, COLOUR), (300, 300)).tobytes()
    rows: list[int] = []
    shrink = Image.Image.resize

    def counting(self: Image.Image, size: tuple[int, int], *more: Any) -> Image.Image:
        rows.append(size[1])
        return shrink(self, size, *more)

    monkeypatch.setattr(Image.Image, "resize", counting)
    assert [resize_on_square(image, COLOUR, 56).tobytes() for image in (wide, tall)] == wanted
    in_strips = ([1003] if cores == 1 else [128] * 7 + [107], [128] * 16 + [52])
    assert sorted(rows) == sorted([*in_strips[0], 56, *in_strips[1], 56])


@given(
    width=st.integers(1, 260), height=st.integers(1, 260), side=st.integers(1, 80), strip=st.integers(1, 40),
    cores=st.integers(1, 4), seed=st.integers(0, 9), level=st.sampled_from([None, *LEVELS]),
)  # fmt: skip
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_shape_in_any_strips(
    width: int, height: int, side: int, strip: int, cores: int, seed: int, level: str | None
):
    """Also where colours are as far apart as they can be, which the filter overshoots."""
    image = noise((width, height), seed)
    if seed % 2:
        image = image.point(([0] * 128 + [255] * 128) * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "threads", lambda: cores)
        patch.setattr(resizing, "LARGE", 1)
        patch.setattr(resizing, "STRIP", strip)
        patch.setattr(pictures, "ROWS", strip)
        patch.setattr(resizing, "_find_filter", lambda: level and pictures.Filter(level))
        padded = resize_on_square(image, COLOUR, side)
        stretched = resize(image, (side, side + 3))
    assert padded.tobytes() == bicubic(pad_to_square(image, COLOUR), (side, side)).tobytes()
    between = image
    if height - side - 3 > max(0, 2 * (width - side)):
        between = bicubic(image, (width, side + 3))
    assert stretched.tobytes() == bicubic(between, (side, side + 3)).tobytes()


@pytest.mark.skipif(not LEVELS, reason="native decode is not built")
def test_what_opens_models_has_large_pictures_filtered_natively(monkeypatch: pytest.MonkeyPatch):
    """At the real limits; Pillow is not asked, and gives the same bytes."""
    image = noise((2100, 1003))
    wanted = [bicubic(pad_to_square(image, COLOUR), (56, 56)), bicubic(image, (56, 56))]
    filter_with(pictures.filter_here)
    monkeypatch.delattr(Image.Image, "resize")
    found = [resize_on_square(image, COLOUR, 56), resize(image, (56, 56))]
    assert [one.tobytes() for one in found] == [one.tobytes() for one in wanted]
    assert INSTALLED is pictures.filter_here


@pytest.mark.skipif(not LEVELS, reason="native decode is not built")
def test_a_picture_wider_than_pillow_keeps_in_one_piece():
    """128 rows of it are more than the 16 MiB of a block of Pillow's."""
    image, made = noise((33001, 130)), pictures.Filter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "_find_filter", lambda: made)
        assert resize(image, (56, 100)).tobytes() == bicubic(image, (56, 100)).tobytes()


def test_rows_with_gaps_between_them_stay_with_pillow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "_pillow", SimpleNamespace(get_alignment=lambda: 64))
    assert pictures.filter_here() is None


def test_small_pictures_and_long_edges_stay_with_pillow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resizing, "_find_filter", lambda: pytest.fail("it is not worth it"))
    resize(noise((1000, 1000)), (56, 56))
    assert bicubic_pass(2**16 + 1, 56) is None
    assert bicubic_pass(30, 56, 2000, 985) is None


def test_a_narrow_strip_of_a_picture_takes_no_square():
    """Padded to a square this one would take ten gigabytes."""
    view = resize_on_square(noise((50_000, 3)), COLOUR, 28)
    middle = np.asarray(view)[14]
    assert view.getpixel((0, 0)) == COLOUR
    assert np.abs(middle.astype(int) - COLOUR).max() < 3


@pytest.mark.parametrize("size", [(61, 40), (40, 61), (50, 50)])
def test_views_are_those_of_the_padded_square(size: tuple[int, int]):
    image = noise(size)
    square = pad_to_square(image, COLOUR)
    for side, processor in ((28, LlavaImageProcessor(28)), (28, QH360VLImageProcessor(28, plan="single"))):
        view = processor.view if isinstance(processor, LlavaImageProcessor) else processor.views
        wanted = normalise(bicubic(square, (side, side)), processor.image_mean, processor.image_std)
        assert view(image).tobytes() == wanted.tobytes()
    five = QH360VLImageProcessor(28)
    big = bicubic(square, (56, 56))
    wanted = normalise(np.asarray(big)[28:, :28], five.image_mean, five.image_std)
    assert five.views(image)[2].tobytes() == wanted.tobytes()
    whole = normalise(bicubic(big, (28, 28)), five.image_mean, five.image_std)
    assert five.views(image)[4].tobytes() == whole.tobytes()


def jpeg(image: Image.Image, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **settings)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_file_is_opened_without_a_copy(kind: str, progressive: bool, monkeypatch: pytest.MonkeyPatch):
    """To the bytes that a copy has; nothing of the file stays with the picture."""
    shot, file = noise((64, 48)), io.BytesIO(jpeg(noise((64, 48)), progressive=progressive))
    if kind == "MPO":
        file = io.BytesIO()
        shot.save(file, "MPO", save_all=True, append_images=[shot], quality=90)
    with Image.open(io.BytesIO(file.getvalue())) as plain:
        assert plain.format == kind
        wanted = plain.convert("RGB").tobytes()

    def copied(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the pixels are copied")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "copy", copied)
        patched.setattr(Image.Image, "convert", copied)
        picture = open_picture(file.getvalue())
    assert (type(picture), picture.mode, picture.info) == (Image.Image, "RGB", {})
    assert picture.tobytes() == wanted
    picture.putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.skipif(not pages.HAS_LARGE_PAGES, reason="large pages are Linux's")
@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"subsampling": 0}])
def test_pixels_in_large_pages_are_those_of_plain_memory(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    file, mapped = jpeg(noise((301, 207)), **kind), 0
    with Image.open(io.BytesIO(file)) as plain:
        wanted = plain.convert("RGB")
    monkeypatch.setattr(pages, "LARGE", 1)
    made = Image.frombuffer

    def counting(*args: Any) -> Image.Image:
        nonlocal mapped
        mapped += 1
        return made(*args)

    monkeypatch.setattr(Image, "frombuffer", counting)
    picture = open_picture(file)
    assert mapped == 1
    assert (picture.mode, picture.im.mode, picture.getbands()) == ("RGB", "RGB", ("R", "G", "B"))
    assert picture.tobytes() == wanted.tobytes()
    assert resize(picture, (56, 56)).tobytes() == resize(wanted, (56, 56)).tobytes()
    copy = picture.copy()
    picture.putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) == (1, 2, 3)
    assert copy.tobytes() == wanted.tobytes()
    with pytest.raises(InputError, match="truncated or damaged"):
        open_picture(file[: len(file) // 2])
    turned = Image.Exif()
    turned[images.ORIENTATION_TAG] = 6
    sideways = open_picture(jpeg(noise((301, 207)), exif=turned, **kind))
    assert sideways.tobytes() == wanted.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_a_system_without_large_pages_gives_others(monkeypatch: pytest.MonkeyPatch):
    class Refused:
        def __init__(self, *_: Any) -> None:
            raise OSError("no memory of that kind")

    file = jpeg(noise((64, 48)))
    wanted = open_picture(file).tobytes()
    monkeypatch.setattr(pages, "LARGE", 1)
    monkeypatch.setattr(pages.mmap, "mmap", Refused)
    assert open_picture(file).tobytes() == wanted
    monkeypatch.setattr(pages, "HAS_LARGE_PAGES", False)
    assert open_picture(file).tobytes() == wanted


def test_only_what_is_given_up_is_not_copied():
    mine = noise((8, 6))
    assert adopt_picture(mine).im is mine.im
    assert open_picture(mine).im is not mine.im
    pixels = np.zeros((6, 8, 3), np.uint8)
    picture = open_picture(pixels)
    pixels[:] = 255
    assert picture.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("cores", [1, 3])
def test_several_are_opened_in_their_order(cores: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "threads", lambda: cores)
    shots = [noise((40 + number, 30), number) for number in range(5)]
    opened = open_pictures([jpeg(shot) for shot in shots])
    assert [picture.size for picture in opened] == [shot.size for shot in shots]
    wanted = [Image.open(io.BytesIO(jpeg(shot))).convert("RGB").tobytes() for shot in shots]
    assert [picture.tobytes() for picture in opened] == wanted
    assert open_pictures([]) == []
    with pytest.raises(InputError, match="no such file: first"):
        open_pictures([jpeg(shots[0]), "first", "second"])
