"""Boxes in pixels, and drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.core.types import Box
from beholder.grounding.boxes import Frame, clip, to_pixels
from beholder.grounding.draw import COLOURS, draw_boxes


def test_pixels_of_the_picture_itself():
    box = to_pixels((0.25, 0.5, 0.75, 1.0), Frame.picture(200, 100), picture=2)
    assert box == Box(50, 50, 150, 100, 2)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [((200, 100), (50, 0, 150, 100)), ((100, 200), (0, 50, 100, 150)), ((101, 200), (1, 50, 101, 150))],
)
def test_pixels_of_a_padded_picture(size: tuple[int, int], pixels: tuple[float, ...]):
    """The rule of the original RefCOCO scorer: times the long side, minus the floor of half the border."""
    box = to_pixels((0.25, 0.25, 0.75, 0.75), Frame.padded_square(*size))
    assert (box.x1, box.y1, box.x2, box.y2) == pixels


def test_clipping_to_the_picture():
    assert clip(Box(-5, 3, 250, 120, 1), 200, 100) == Box(0, 3, 200, 100, 1)
    assert clip(Box(-9, -9, -5, -5), 200, 100) == Box(0, 0, 0, 0)


def test_drawing_leaves_the_picture_and_its_inside_alone():
    picture = Image.new("RGB", (200, 150), "white")
    drawn = np.asarray(draw_boxes(picture, [Box(20, 20, 100, 80), Box(150, 140, 120, 90)]))
    assert np.asarray(picture).min() == 255
    first, second = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in COLOURS[:2])
    for x, y, colour in [
        (20, 50, first),
        (100, 50, first),
        (60, 80, first),
        (120, 100, second),
        (130, 140, second),
    ]:
        assert tuple(drawn[y, x]) == colour
    assert tuple(drawn[50, 60]) == (255, 255, 255)
    assert drawn.shape == (150, 200, 3)


def test_labels_are_written_in_the_colour_of_the_box():
    picture = Image.new("RGB", (200, 150), "white")
    plain = np.asarray(draw_boxes(picture, [Box(40, 60, 120, 100)]))
    labelled = np.asarray(draw_boxes(picture, [Box(40, 60, 120, 100)], ["circle"]))
    changed = (plain != labelled).any(axis=2)
    assert changed[40:60, 40:].any()
    assert not changed[61:, :].any()


def test_label_at_the_edge_stays_on_the_picture():
    picture = Image.new("RGB", (200, 150), "white")
    changed = (np.asarray(draw_boxes(picture, [Box(-10, -10, 50, 50)], ["circle"])) != 255).any(axis=2)
    assert changed[:14, :30].sum() > 200


def test_more_boxes_than_colours():
    boxes = [Box(i, i, i + 50, i + 50) for i in range(len(COLOURS) + 1)]
    assert draw_boxes(Image.new("RGB", (99, 99)), boxes).size == (99, 99)


def test_labels_must_match():
    with pytest.raises(InputError, match="1 boxes have 2 labels"):
        draw_boxes(Image.new("RGB", (9, 9)), [Box(0, 0, 1, 1)], ["a", "b"])
