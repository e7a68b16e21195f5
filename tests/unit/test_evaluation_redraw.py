"""The other renderer: what is drawn lies in the boxes that it tells, and looks like what the scene says."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from beholder.mini.backgrounds import Background
from beholder.mini.drawing import draw_scene
from beholder.mini.fonts import FontBook
from beholder.mini.scenes import Box, Scene
from beholder.mini.shapes import NAMES
from beholder.mini.worlds import scene_at

pytest.importorskip("matplotlib", reason="the extra eval is not installed")

from beholder.evaluation.tasks.other_renderer import redraw

FONTS = FontBook()
SCENES = [scene_at(3, "test", index, FONTS) for index in range(60)]
WHITE = Background("plain", "white", ((255, 255, 255),))


def bare(scene: Scene) -> Scene:
    """The things on white in dark colours, without what reaches beyond a thing's box."""
    things = tuple(
        replace(
            thing,
            rgb=(200, 0, 0),
            shadow=0.0,
            shading="flat",
            outline=replace(thing.outline, rgb=(0, 0, 0)) if thing.outline else None,
        )
        for thing in scene.things
    )
    return replace(scene, background=WHITE, things=things, writings=())


def ink(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L")) < 200


@pytest.mark.parametrize("index", range(12))
def test_size_and_contents_stay(index):
    scene = SCENES[index]
    picture, drawn = redraw(scene, random.Random(index))
    assert picture.size == (scene.width, scene.height)
    assert picture.mode == "RGB"
    assert [(t.shape, t.colour, t.size) for t in drawn.things] == [
        (t.shape, t.colour, t.size) for t in scene.things
    ]
    assert [w.text for w in drawn.writings] == [w.text for w in scene.writings]


def one_each() -> list[tuple[str, Scene, int]]:
    found: dict[str, tuple[str, Scene, int]] = {}
    for scene in SCENES:
        for place, thing in enumerate(scene.things):
            if thing.extent > 30:
                found.setdefault(thing.shape, (thing.shape, scene, place))
    assert set(found) == set(NAMES)
    return list(found.values())


@pytest.mark.parametrize(("shape", "scene", "place"), one_each())
def test_the_box_is_that_of_the_ink(shape, scene, place):
    alone = replace(bare(scene), things=(bare(scene).things[place],))
    picture, drawn = redraw(alone, random.Random(3))
    rows, columns = np.nonzero(ink(picture))
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == pytest.approx(drawn.things[0].box, abs=1.6)


def test_nothing_leaves_the_place_that_the_scene_keeps_for_it():
    for number, scene in enumerate(SCENES):
        _, drawn = redraw(scene, random.Random(number))
        for before, after in zip(
            (*scene.things, *scene.writings), (*drawn.things, *drawn.writings), strict=True
        ):
            assert inside(after.box, before.box), (number, before, after)


def inside(inner: Box, outer: Box) -> bool:
    return all(a >= b - 0.01 for a, b in zip(inner[:2], outer[:2], strict=True)) and all(
        a <= b + 0.01 for a, b in zip(inner[2:], outer[2:], strict=True)
    )


def test_writing_is_drawn_in_its_box():
    scene = next(s for s in SCENES if s.writings and not s.writings[0].plate)
    scene = replace(scene, background=WHITE, things=(), writings=(replace(scene.writings[0], rgb=(0, 0, 0)),))
    picture, drawn = redraw(scene, random.Random(0))
    rows, columns = np.nonzero(ink(picture))
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == pytest.approx(drawn.writings[0].box, abs=1.6)


def test_drawn_by_other_software():
    """The same scene, the same places, and yet plainly other pixels."""
    for scene in SCENES[:10]:
        theirs = np.asarray(redraw(scene, random.Random(0))[0], float)
        ours = np.asarray(draw_scene(scene, FONTS), float)
        assert (np.abs(theirs - ours).max(axis=2) > 8).mean() > 0.0005


def test_reproducible():
    first, second = (redraw(SCENES[4], random.Random(7))[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()
