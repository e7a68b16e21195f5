"""What lies behind the things: plain colours, gradients, faint textures and noise; chosen and painted."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from beholder.mini import colours
from beholder.mini.colours import RGB

TEXTURES = ("stripes", "checks", "dots", "grid")


@dataclass(frozen=True, slots=True)
class Background:
    """`colour` is the name of a plain background, or None; `shades` are all the colours that occur in it."""

    kind: str
    colour: str | None
    shades: tuple[RGB, ...]
    period: float = 0.1  # of the shorter side: how far apart the marks of a texture are
    angle: float = 0.0  # degrees, of gradients and stripes
    strength: float = 0.0  # of noise, as a standard deviation of channel values
    seed: int = 0


def pick_background(rng: random.Random) -> Background:
    """A background as often plain white as people's drawings have one, otherwise anything."""
    kind = rng.random()
    if kind < 0.25:
        return Background("plain", "white", ((255, 255, 255),))
    if kind < 0.5:
        name, shade = pick_shade(rng)
        return Background("plain", name, (shade,))
    base = pick_shade(rng)[1]
    if kind < 0.65:
        other = pick_shade(rng)[1] if rng.random() < 0.4 else colours.blend(base, pick_shade(rng)[1], 0.4)
        return Background(
            "gradient", None, (base, colours.blend(base, other, 0.5), other), angle=rng.uniform(0, 360)
        )
    if kind < 0.82:
        change = rng.choice((-1, 1)) * rng.randint(6, 30)
        other = (
            colours.clamp(base[0] + change),
            colours.clamp(base[1] + change),
            colours.clamp(base[2] + change),
        )
        period, angle = rng.uniform(0.03, 0.2), rng.choice((0, 90, 45, rng.uniform(0, 180)))
        return Background(rng.choice(TEXTURES), None, (base, other), period, angle)
    seed = rng.getrandbits(32)
    if kind < 0.91:
        return Background("noise", None, (base,), strength=rng.uniform(4, 24), seed=seed)
    shades = tuple(colours.blend(base, pick_shade(rng)[1], rng.uniform(0.1, 0.35)) for _ in range(3))
    return Background("blotches", None, shades, period=rng.uniform(0.1, 0.4), seed=seed)


def pick_shade(rng: random.Random) -> tuple[str | None, RGB]:
    """A background colour, with its name where people would agree on one: light, dark, or saturated."""
    kind = rng.random()
    if kind < 0.45:
        low = rng.randint(215, 250)
        return None, (rng.randint(low, 255), rng.randint(low, 255), rng.randint(low, 255))
    if kind < 0.65:
        high = rng.randint(15, 70)
        return None, (rng.randint(0, high), rng.randint(0, high), rng.randint(0, high))
    name = rng.choice(colours.NAMES)
    return name, colours.pick(name, rng)


def paint(background: Background, width: int, height: int) -> Image.Image:
    """The background as a picture of this size."""
    shades = background.shades
    if background.kind == "plain":
        return Image.new("RGB", (width, height), shades[0])
    if background.kind == "gradient":
        return paint_gradient(background, width, height)
    if background.kind == "noise":
        return add_noise(Image.new("RGB", (width, height), shades[0]), background.strength, background.seed)
    if background.kind == "blotches":
        return paint_blotches(background, width, height)
    return paint_texture(background, width, height)


def paint_gradient(background: Background, width: int, height: int) -> Image.Image:
    """From the first shade to the last along the angle; computed small, then stretched: smooth and quick."""
    side = 32
    down, across = np.mgrid[0:side, 0:side] / (side - 1) - 0.5
    turn = np.deg2rad(background.angle)
    along = across * np.cos(turn) + down * np.sin(turn)
    along = (along - along.min()) / np.ptp(along)
    first, last = np.array(background.shades[0], float), np.array(background.shades[-1], float)
    pixels = first + (last - first) * along[..., None]
    return Image.fromarray(as_bytes(pixels)).resize((width, height), Image.Resampling.BICUBIC)


def paint_blotches(background: Background, width: int, height: int) -> Image.Image:
    """Soft spots of the shades."""
    columns = max(2, round(1 / background.period * width / max(width, height)))
    rows = max(2, round(1 / background.period * height / max(width, height)))
    chosen = np.random.default_rng(background.seed).integers(0, len(background.shades), (rows, columns))
    pixels = np.array(background.shades, float)[chosen]
    return Image.fromarray(as_bytes(pixels)).resize((width, height), Image.Resampling.BICUBIC)


def paint_texture(background: Background, width: int, height: int) -> Image.Image:
    """Stripes, checks, dots or fine lines of the second shade on the first."""
    first, second = background.shades
    step = max(4.0, background.period * min(width, height))
    if background.kind == "stripes":
        down, across = np.ogrid[0:height, 0:width]
        turn = np.deg2rad(background.angle)
        marked = ((across * np.cos(turn) + down * np.sin(turn)) % step < step / 2).astype(np.uint8) * 255
        mask = Image.fromarray(marked)
    elif background.kind == "checks":
        down, across = np.ogrid[0:height, 0:width]
        mask = Image.fromarray((((down // step + across // step) % 2) * 255).astype(np.uint8))
    else:
        mask = Image.new("L", (width, height))
        pen = ImageDraw.Draw(mask)
        columns, rows = int(width / step) + 1, int(height / step) + 1
        if background.kind == "grid":
            for column in range(columns):
                pen.line([(column * step, 0), (column * step, height)], fill=255)
            for row in range(rows):
                pen.line([(0, row * step), (width, row * step)], fill=255)
        else:
            radius = step * 0.22
            for x in (column * step + step / 2 for column in range(columns)):
                for y in (row * step + step / 2 for row in range(rows)):
                    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    picture = Image.new("RGB", (width, height), first)
    picture.paste(second, (0, 0), mask)
    return picture


def add_noise(picture: Image.Image, strength: float, seed: int) -> Image.Image:
    """The picture with normal noise on every channel, reproducible from the seed."""
    rng = np.random.default_rng(seed)
    # A table of normal values indexed by random bytes: ten times quicker than normals for every pixel.
    table = np.clip(rng.normal(0, strength, 256), -127, 127).astype(np.int16)
    size = picture.width * picture.height * 3
    drawn = table[np.frombuffer(rng.bytes(size), dtype=np.uint8)]
    noise = drawn.reshape(picture.height, picture.width, 3)
    return Image.fromarray(as_bytes(np.asarray(picture, dtype=np.int16) + noise))


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Channel values rounded and clipped to bytes."""
    return np.clip(np.rint(pixels) if pixels.dtype.kind == "f" else pixels, 0, 255).astype(np.uint8)
