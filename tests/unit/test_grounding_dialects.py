"""Boxes in every dialect: read, written, placed on the picture and back; nothing a model says raises."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Box
from beholder.grounding.dialects import DIALECTS, frame_of, place, read_boxes, to_fractions, write_boxes
from beholder.grounding.draw import COLOURS, draw_boxes, ink_on
from beholder.grounding.export import BoxedPicture, to_coco, to_csv, to_label_studio
from beholder.grounding.phrases import read_phrases

DOG = (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    ("text", "dialect", "boxes", "space"),
    [
        ("[[100,200,300,400]]", "thousandths", [DOG], "picture"),
        ("dogs [[100,200,300,400;000,000,999,999]]", "thousandths", [DOG, (0, 0, 0.999, 0.999)], "picture"),
        ("[0.1,0.2,0.3,0.4]", "unit", [DOG], "padded"),
        ("[0.1, .2, 0.3, 0.4]; [0,0,1,1.0]", "unit", [DOG, (0, 0, 1, 1)], "padded"),
        (
            "a dog[0.100,0.200,0.300,0.400;0.5,0.5,0.6,0.6].",
            "unit-list",
            [DOG, (0.5, 0.5, 0.6, 0.6)],
            "padded",
        ),
        ("<ref>a dog</ref><box>(100,200),(300,400)</box>", "tagged", [DOG], "picture"),
        ("<box>(0,0),(1000,1000)</box>", "tagged", [(0, 0, 1, 1)], "picture"),
    ],
)
def test_dialects(text, dialect, boxes, space):
    for reading in (read_boxes(text, dialect), read_boxes(text)):
        assert [box.corners for box in reading.boxes] == boxes
        assert {box.space for box in reading.boxes} == {space}
        assert not reading.reason


def test_tagged_boxes_carry_their_phrase():
    (box,) = read_boxes("Here: <ref> a dog </ref><box>(100,200),(300,400)</box>").boxes
    assert box.phrase == "a dog"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("I cannot see it.", "holds no box"),
        ("[[012,345,678]]", "3 numbers instead of 4"),
        ("[[1,2,3,4,5]]", "5 numbers instead of 4"),
        ("[[1,2,3,4", "holds no box"),
        ("[1, 2, 3, 4]", "not a number of this form"),
        ("[0.1, 0.2, 0.3]", "3 numbers instead of 4"),
        ("[-0.1, 0.2, 0.3, 0.4]", "not a number of this form"),
        ("[[1234,0,0,0]]", "not a number of this form"),
        ("[[0.1,0.2,0.3,0.4]]", "not a number of this form"),
        ("[[-10,20,30,40]]", "not a number of this form"),
        ("[[900,800,100,200]]", "wrong order"),
        ("[[1²,2,3,4]]", "not a number of this form"),
        ("[[\uff11,\uff12,\uff13,\uff14]]", "not a number of this form"),
        ("[0.1, 0.2, 0.3, 1.4]", "beyond the picture"),
        ("[[012,345,678,901]", "3"),
        ("<box>(1,2),(3,4</box> <box>(9999,1),(2,3)</box>", "beyond the picture"),
    ],
)
def test_what_is_no_box_says_why(text, reason):
    reading = read_boxes(text)
    if reason != "3":  # a group that was never closed is no group
        assert not [box for box in reading.boxes if box.start == 0 and "(1,2)" not in text]
        assert reason in reading.reason
    else:
        assert not reading.boxes
        assert reading.reason


@given(st.text(alphabet="[]()<>/boxref0123456789.,; -²一", max_size=60))
@settings(max_examples=300, deadline=None)
def test_nothing_raises(text):
    for dialect in (None, *DIALECTS):
        reading = read_boxes(text, dialect)
        assert reading.boxes or reading.reason
    read_phrases(text)


@given(
    st.sampled_from(list(DIALECTS)),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_pixels_to_text_and_back(name, width, height, shares):
    left, right = sorted(shares[:2])
    top, bottom = sorted(shares[2:])
    box = Box(left * width, top * height, right * width, bottom * height)
    written = write_boxes([box], width, height, name)
    (read,) = read_boxes(written, name).boxes
    back = place(read, width, height)
    step = 1.001 * (max(width, height) if DIALECTS[name].space == "padded" else 1) / 1000
    for ours, true, side in zip(
        (back.x1, back.y1, back.x2, back.y2),
        (box.x1, box.y1, box.x2, box.y2),
        (width, height) * 2,
        strict=True,
    ):
        assert abs(ours - true) <= (step if DIALECTS[name].space == "padded" else step * side) + 1e-6


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(["picture", "padded"]))
@settings(max_examples=100, deadline=None)
def test_frames_are_undone_exactly(width, height, space):
    frame = frame_of(space, width, height)
    whole = Box(0, 0, width, height)
    fractions = to_fractions(whole, frame)
    assert fractions[0] * frame.width + frame.left == pytest.approx(0, abs=1e-6)
    assert fractions[3] * frame.height + frame.top == pytest.approx(height, abs=1e-6)


def test_an_unknown_dialect():
    with pytest.raises(ConfigError, match="known: thousandths, unit"):
        read_boxes("", "pascal")


def labelled(size: tuple[int, int], count: int) -> Image.Image:
    boxes = [Box(5, 5, size[0] / 2, size[1] / 2)] * count
    return draw_boxes(Image.new("RGB", size, "white"), boxes, [f"label {number}" for number in range(count)])


def test_labels_do_not_lie_on_each_other():
    """Six boxes in one place: every label keeps its own colour and its own ink."""
    picture = labelled((300, 200), 6)
    colours = picture.getcolors(100_000)
    assert colours is not None
    counts = {colour: count for count, colour in colours}
    areas = [counts.get(tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)), 0) for colour in COLOURS[:6]]
    assert min(areas) > 300, areas
    assert max(areas) < 4 * min(areas) + 1500


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (20, 20), (2000, 30)])
def test_any_size_of_picture(size, caplog):
    assert labelled(size, 3).size == size


def test_a_label_without_room_is_told(caplog):
    labelled((12, 12), 2)
    assert "there is no room for the label" in caplog.text


def test_ink_is_readable_on_every_colour():
    assert [ink_on(colour) for colour in ("#000000", "#f0e442", "#0072b2")] == ["white", "black", "white"]


PICTURES = (
    BoxedPicture("a.png", 200, 100, (Box(10, 20, 110, 70), Box(0, 0, 50, 50)), ("dog, brown", "cat")),
    BoxedPicture("b.png", 10, 10, (Box(1, 1, 2, 3),), ("cat",)),
)


def test_exports():
    coco = json.loads(to_coco(PICTURES))
    assert [one["name"] for one in coco["categories"]] == ["dog, brown", "cat"]
    assert coco["annotations"][0] | {"bbox": [10, 20, 100, 50], "area": 5000} == coco["annotations"][0]
    ids = [(one["id"], one["image_id"], one["category_id"]) for one in coco["annotations"]]
    assert ids == [(1, 1, 1), (2, 1, 2), (3, 2, 2)]
    table = list(csv.DictReader(io.StringIO(to_csv(PICTURES))))
    assert table[0]["label"] == "dog, brown"
    assert [float(table[2][key]) for key in ("x1", "y1", "x2", "y2")] == [1, 1, 2, 3]
    first = json.loads(to_label_studio(PICTURES))[0]["predictions"][0]["result"][0]
    assert first["value"] | {"x": 5, "y": 20, "width": 50, "height": 50} == first["value"]
    with pytest.raises(InputError, match="1 boxes have 0 labels"):
        BoxedPicture("c.png", 1, 1, (Box(0, 0, 1, 1),), ())
