"""Samples the scenes of the drawn worlds from a seed: a picture's size, background, writings and things.

A scene's `domain` decides which split it may belong to, so that training, validation and test scenes can
never meet, whatever their seeds.
"""

import hashlib
import random
from collections.abc import Callable

from beholder.core.errors import ConfigError
from beholder.mini import backgrounds
from beholder.mini.arranging import SIZES, Arrangement
from beholder.mini.fonts import FontBook
from beholder.mini.lettering import place_writing
from beholder.mini.scenes import SPLITS, Box, Finish, Outline, Plate, Scene, Split, Thing, Writing

__all__ = [
    "SIZES", "SPLITS", "Box", "Finish", "Outline", "Plate", "Scene", "Split", "Thing", "Writing",
    "sample_scene", "scene_at", "stream",
]  # fmt: skip

ASPECTS = ((1, 1), (1, 1), (1, 1), (4, 3), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))


def scene_at(
    seed: int, split: Split, index: int, fonts: FontBook, sample: Callable[..., Scene] | None = None
) -> Scene:
    """Scene number `index` of a split: the same on every machine, and never one of another split.

    `sample` draws it from random numbers and typefaces; `sample_scene` if not given.
    """
    rng = stream(seed, split, index, "scene")
    for _ in range(1000):
        scene = (sample or sample_scene)(rng, fonts)
        if scene.domain == split:
            return scene
    raise ConfigError(f"no scene of split {split!r} found for seed {seed}, index {index}; use another seed")


def stream(seed: int, split: Split, index: int, purpose: str) -> random.Random:
    """The random numbers of one scene for one purpose, independent of all others."""
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    digest = hashlib.sha256(f"{seed}/{split}/{index}/{purpose}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def sample_scene(rng: random.Random, fonts: FontBook) -> Scene:
    """A picture's size, background, writings and things, in this order."""
    width, height = pick_canvas(rng)
    background = backgrounds.pick_background(rng)
    only_text = rng.random() < 0.14
    texts = rng.choice((1, 1, 1, 2)) if only_text else int(rng.random() < 0.4) + int(rng.random() < 0.05)
    writings: list[Writing] = []
    for _ in range(texts):
        if writing := place_writing(rng, fonts, (width, height), background, writings, only_text):
            writings.append(writing)
    things: list[Thing] = []
    if not only_text or not writings:
        things = Arrangement(
            rng, width, height, background, tuple(writing.area for writing in writings)
        ).fill()
    return Scene(
        width, height, background, tuple(things), tuple(writings), pick_finish(rng, min(width, height))
    )


def pick_canvas(rng: random.Random) -> tuple[int, int]:
    """Width and height: mostly moderate, a few up to 1024 pixels."""
    across, down = rng.choice(ASPECTS)
    longer = (
        rng.choice((192, 224, 256, 256, 320, 336, 400, 512)) if rng.random() < 0.4 else rng.randint(160, 560)
    )
    if rng.random() < 0.1:
        longer = rng.randint(96, 160) if rng.random() < 0.6 else rng.randint(600, 1024)
    scale = longer / max(across, down)
    return round(across * scale), round(down * scale)


def pick_finish(rng: random.Random, shorter: int) -> Finish:
    """Edges, blur, noise and file format."""
    noisy = rng.random() < 0.06
    return Finish(
        supersampling=1 if shorter > 600 else rng.choice((1, 2, 2, 2, 3) if shorter < 320 else (1, 2, 2)),
        blur=rng.uniform(0.3, 0.004 * shorter + 0.3) if rng.random() < 0.1 else 0.0,
        noise=rng.uniform(2, 10) if noisy else 0.0,
        noise_seed=rng.getrandbits(32) if noisy else 0,
        quality=None if rng.random() < 0.1 else rng.randint(40, 95),
    )
