"""Labels of a tower's warm-up: what each cell lies on, in whole pictures and in parts cut from them."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from beholder.core.errors import InputError
from beholder.training.patch_labels import (
    BACKGROUND,
    NO_COLOUR,
    UNKNOWN,
    PictureLabels,
    cut_objects,
    cut_picture,
    pick_window,
)
from beholder.training.patches import ReadingHeads

SQUARE = {"what": "square", "colour": "red", "box": [0.0, 0.0, 0.5, 0.5]}
LETTER = {"what": "letter A", "box": [0.6, 0.6, 0.7, 0.9]}


def views(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((8, 8)), dtype=np.float32)[None]


PROCESSOR = SimpleNamespace(image_processor=SimpleNamespace(views=views))


@pytest.fixture
def labels(tmp_path: Path) -> PictureLabels:
    return labels_of(tmp_path)


def labels_of(folder: Path, parts: int | None = None) -> PictureLabels:
    Image.new("RGB", (40, 20), "white").save(folder / "a.png")
    rows = [{"id": "a", "image": "a.png", "conversations": [], "objects": [SQUARE, LETTER]}]
    return PictureLabels([(rows, folder)], PROCESSOR, (4,), [parts])


def test_cells_say_what_they_lie_on(labels):
    found = labels.labels([SQUARE, LETTER], 4)
    grid = found["what"].view(4, 4)
    square = labels.what["square"]
    assert grid[:2, :2].eq(square).all()
    assert grid[0, 2:].eq(BACKGROUND).all()
    assert found["colour"].view(4, 4)[0, 0] == labels.colour["red"]
    assert found["colour"].view(4, 4)[3, 3] == NO_COLOUR
    assert found["box"].view(4, 4, 4)[0, 1].tolist() == pytest.approx([-0.375, -0.125, 0.125, 0.375])
    assert found["weight"].view(4, 4)[0, 0] == 0.5  # four cells
    assert found["middle"].view(4, 4).nonzero().tolist() == [[1, 1], [3, 2]]


def test_what_is_too_small_for_a_grid_is_unknown_there(labels):
    assert labels.labels([LETTER], 4)["what"].view(4, 4)[2, 2] == UNKNOWN  # 0.4 cells wide
    fine = labels.labels([LETTER], 8)["what"].view(8, 8)
    assert fine[5, 5] == labels.what["letter A"]


def test_a_part_keeps_what_is_seen_and_marks_what_is_cut():
    window = (0.25, 0.0, 0.75, 0.5)
    (square,) = cut_objects([SQUARE, LETTER], window)
    assert square["box"] == [0.0, 0.0, 0.5, 1.0]
    assert square["whole"] is False
    (whole,) = cut_objects([SQUARE], (0.0, 0.0, 0.75, 0.75))
    assert whole["whole"] is True
    assert whole["box"] == pytest.approx([0, 0, 2 / 3, 2 / 3])


def test_a_cut_off_thing_is_unknown(labels):
    found = labels.labels(cut_objects([SQUARE], (0.25, 0.0, 0.75, 0.5)), 4)
    assert found["what"].view(4, 4)[:, :2].eq(UNKNOWN).all()
    assert found["colour"].eq(NO_COLOUR).all()


def test_boxes_follow_the_pixels_of_a_part():
    rng = random.Random(3)
    for _ in range(50):
        window = pick_window(rng)
        assert 0 <= window[0] < window[2] <= 1
        assert 0 <= window[1] < window[3] <= 1
        picture = Image.new("L", (400, 400))
        picture.paste(255, (160, 120, 240, 280))
        (seen,) = cut_objects([{"what": "x", "box": [0.4, 0.3, 0.6, 0.7]}], window) or [None]
        found = cut_picture(picture, window).getbbox()
        if seen is None:
            assert found is None
            continue
        width, height = cut_picture(picture, window).size
        scaled = [
            seen["box"][0] * width,
            seen["box"][1] * height,
            seen["box"][2] * width,
            seen["box"][3] * height,
        ]
        assert found == pytest.approx(scaled, abs=1.5)


def test_each_picture_is_shown_in_as_many_parts_as_asked_and_always_the_same(tmp_path):
    several, again = labels_of(tmp_path, parts=5), labels_of(tmp_path, parts=5)
    assert len(several) == 5
    assert len(labels_of(tmp_path)) == 1
    for position in range(5):
        first, second = several[position], again[position]
        assert all(torch.equal(first[key], second[key]) for key in first)
    boxes = [several[position]["box_4"].tolist() for position in range(5)]
    assert any(box != boxes[0] for box in boxes)


def test_a_row_without_objects_is_refused(tmp_path):
    with pytest.raises(InputError, match="row a: patch labels need one picture and an 'objects' list"):
        PictureLabels([([{"id": "a", "image": "a.png"}], tmp_path)], PROCESSOR, (4,))


def test_a_slot_answers_for_its_cells_in_the_order_of_the_finer_grid():
    heads = ReadingHeads(width=1, whats=1, colours=1, cells=4)
    slots = torch.arange(4.0).view(1, 4, 1)  # 2 x 2 slots
    answers = 10 * slots + torch.arange(4.0)  # their cells: upper left, upper right, lower left, lower right
    assert heads.spread(answers).view(4, 4).tolist() == [
        [0, 1, 10, 11],
        [2, 3, 12, 13],
        [20, 21, 30, 31],
        [22, 23, 32, 33],
    ]


def test_unknown_cells_teach_nothing():
    torch.manual_seed(0)
    heads, features = ReadingHeads(4, whats=3, colours=3), torch.randn(1, 4, 4)
    colour, box, weight = torch.full((1, 4), NO_COLOUR), torch.zeros(1, 4, 4), torch.ones(1, 4)
    what, middle = torch.tensor([[BACKGROUND, 1, UNKNOWN, UNKNOWN]]), torch.zeros(1, 4)
    heads.middle.weight.data.zero_()  # a middle is learned of things that are cut off too
    before = heads(features, what, colour, box, weight, middle)
    features[:, 2:] = torch.randn(1, 2, 4)
    assert torch.equal(before, heads(features, what, colour, box, weight, middle))
    features[:, :2] = torch.randn(1, 2, 4)
    assert not torch.equal(before, heads(features, what, colour, box, weight, middle))


def test_slots_tell_boxes_from_the_corner_of_the_picture():
    heads = ReadingHeads(4, whats=1, colours=1, placed=True)
    told = heads.target(torch.tensor([[[-0.1, -0.1, 0.1, 0.1]]]).repeat(1, 4, 1))
    assert told[0].tolist() == [
        pytest.approx([x - 0.1, y - 0.1, x + 0.1, y + 0.1]) for y in (0.25, 0.75) for x in (0.25, 0.75)
    ]
