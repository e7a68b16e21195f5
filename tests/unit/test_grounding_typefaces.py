"""Labels in any script: drawn with the shapes of a typeface that has them, or told; never as empty boxes.

The typefaces here are made by the tests, so that what is found does not hang on the machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.core.types import Box
from beholder.grounding import typefaces
from beholder.grounding.draw import draw_boxes
from beholder.grounding.typefaces import Typeface, find_typeface, has_characters, wide_fonts

builder = pytest.importorskip("fontTools.fontBuilder")
pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
collections = pytest.importorskip("fontTools.ttLib")
DOG, RECTANGLE = "狗", (0, 0, 800, 300)
NOTO = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")
LANGUAGES = {"红色的狗": "SC", "赤い犬": "JP", "빨간 개": "KR"}


def glyph(left: int, bottom: int, right: int, top: int) -> object:
    pen = pens.TTGlyphPen(None)
    pen.moveTo((left, bottom))
    for point in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def font(characters: str, shape: tuple[int, int, int, int] = RECTANGLE) -> object:
    """A typeface with one shape for all its characters, and a tall box for those that it lacks."""
    made = builder.FontBuilder(1000)
    made.setupGlyphOrder([".notdef", "a"])
    made.setupCharacterMap({ord(char): "a" for char in characters})
    made.setupGlyf({".notdef": glyph(100, 0, 500, 900), "a": glyph(*shape)})
    made.setupHorizontalMetrics({".notdef": (600, 100), "a": (1000, shape[0])})
    made.setupHorizontalHeader(ascent=900, descent=-100)
    made.setupNameTable({"familyName": "Made", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.setupHead(unitsPerEm=1000, created=0, modified=0)
    return made.font


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place with typefaces, empty at first."""
    monkeypatch.setattr(typefaces, "FONT_FOLDERS", {"linux": (str(tmp_path),)})
    monkeypatch.setattr(typefaces.sys, "platform", "linux")
    monkeypatch.setattr(typefaces, "wide_fonts", wide_fonts.__wrapped__)
    typefaces._open.cache_clear()
    return tmp_path


def drawn(label: str, **settings: object) -> np.ndarray:
    return np.asarray(draw_boxes(Image.new("RGB", (200, 100)), [Box(10, 40, 90, 90)], [label], **settings))


def test_plain_text_needs_no_file(folder):
    assert find_typeface("a red dog, 1") == Typeface()
    assert not has_characters(Typeface().at(12), DOG)


def test_without_a_typeface_the_box_is_called_by_its_number(folder, caplog):
    picture = drawn(DOG)
    assert (
        "no typeface here has all characters of the label '狗'; its box is called 1. Install" in caplog.text
    )
    assert np.array_equal(picture, drawn("1"))
    assert len(caplog.records) == 1, "told once, not for every size that is tried"


def test_numbers_are_those_of_the_boxes(folder):
    boxes = [Box(10, 40, 40, 90), Box(100, 40, 140, 90)]
    picture = Image.new("RGB", (200, 100))
    one, other = (np.asarray(draw_boxes(picture, boxes, labels)) for labels in (("dog", DOG), ("dog", "2")))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("text", ["\x07", "\u200b\U0001f436", "dog \ufffe"])
def test_nothing_invisible_is_drawn_as_an_empty_box(folder, text, caplog):
    assert np.array_equal(drawn(text), drawn("1"))
    assert "its box is called 1" in caplog.text


def test_tabs_are_blanks(folder, caplog):
    assert np.array_equal(drawn("a\tdog"), drawn("a dog"))
    assert not caplog.text


def test_a_typeface_of_the_system_is_found(folder, caplog):
    font(DOG).save(folder / "NotoSansCJK-Regular.otf")
    face = find_typeface(DOG)
    assert face == Typeface(str(folder / "NotoSansCJK-Regular.otf"))
    mask = face.at(100).getmask(DOG)
    assert mask.size == (100, 30), "the shape of the character, not that of a missing one"
    assert not np.array_equal(drawn(DOG), drawn("1"))
    assert not caplog.text
    assert find_typeface(DOG + "猫") is None


def test_the_regular_weight_of_the_best_family_comes_first(folder):
    (folder / "deeper").mkdir()
    names = ("NotoSerifCJK-Regular.ttc", "NotoSansCJK-Bold.ttc", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc")
    for name in (*names, "Lato-Regular.ttf", "NotoSansCJK.txt"):
        (folder / name).touch()
    (folder / "deeper" / "DejaVuSans.ttf").touch()
    found = [Path(path).name for path in typefaces.wide_fonts()]
    assert found == ["DejaVuSans.ttf", names[2], names[1], names[3], names[0]]


def test_a_broken_file_of_the_system_is_passed_over(folder):
    (folder / "NotoSansCJK-Regular.otf").write_bytes(b"no typeface")
    font(DOG).save(folder / "wqy-zenhei.ttf")
    assert find_typeface(DOG) == Typeface(str(folder / "wqy-zenhei.ttf"))


def test_a_collection_gives_the_forms_of_the_language(folder):
    made = collections.TTCollection()
    every = "".join(LANGUAGES)
    made.fonts = [font(every, (0, 0, 100 * side, 300)) for side in (1, 2, 3)]
    made.save(folder / "NotoSansCJK-Regular.ttc")
    faces = {"SC": 2, "JP": 0, "KR": 1}
    for text, language in LANGUAGES.items():
        face = find_typeface(text)
        assert face
        assert face.face == faces[language]


def test_a_typeface_that_is_named_is_the_only_one(folder, caplog):
    font(DOG).save(folder / "NotoSansCJK-Regular.otf")
    font("猫").save(folder / "mine.ttf")
    picture = drawn(DOG, font=folder / "mine.ttf")
    assert "mine.ttf lacks characters of the label '狗'; its box is called 1" in caplog.text
    assert np.array_equal(picture, drawn("1"))
    assert not np.array_equal(drawn("猫", font=folder / "mine.ttf"), drawn("1"))
    with pytest.raises(InputError, match="cannot be read as a typeface"):
        find_typeface("dog", str(folder / "nowhere.ttf"))


@pytest.mark.skipif(not NOTO.exists(), reason="Noto Sans CJK is not installed")
@pytest.mark.parametrize(("text", "language"), LANGUAGES.items())
def test_with_noto(text: str, language: str, caplog: pytest.LogCaptureFixture):
    face = find_typeface(text)
    assert face
    assert face.file
    assert language in face.at(20).getname()[0] or "CJK" not in face.file
    missing = bytes(face.at(20).getmask("\uffff"))
    shapes = [bytes(face.at(20).getmask(char)) for char in text if char != " "]
    assert missing not in shapes
    assert len(set(shapes)) == len(set(text) - {" "}), "every character has a shape of its own"
    drawn(text)
    assert not caplog.text
