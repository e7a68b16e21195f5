"""Draws captchas, and plainer lettering to learn reading from: Pillow and NumPy alone, all from a seed.

A letter is drawn large, bent (turned, sheared, stretched in perspective) and put in its place; then lines go
over the writing, the whole picture is waved, and dots and grain are added. How much of each is the `Hand`'s.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from beholder.mini.fonts import load_face, visible

# Without what people confuse as well once it is bent: 0 and O, 1 and I, 2 and Z, 5 and S.
LETTERS = "ABCDEFGHJKLMNPQRTUVWXY346789"
WIDTH, HEIGHT = 160, 64
INK_SIZE = 48  # letters are drawn at this size before they are bent

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Hand:
    """How a picture is drawn: ranges that each picture, letter or stroke draws its own numbers from."""

    lengths: tuple[int, ...] = (4, 5, 6)
    heights: tuple[float, float] = (0.50, 0.80)  # of a letter, as a share of the picture's
    squeeze: tuple[float, float] = (0.85, 1.1)  # a letter's width, in the one that its typeface gives it
    turn: float = 30.0  # degrees to either side
    shear: float = 0.25
    perspective: float = 0.18  # how far a corner may move, as a share of the letter
    closeness: tuple[float, float] = (-0.08, 0.20)  # gap to the next letter in its width; below 0 overlaps
    wave: float = 2.2  # pixels
    lines: tuple[int, int] = (1, 2)
    dots: tuple[int, int] = (10, 60)
    dashes: float = 0.4  # share of pictures whose dots are short strokes in the ink's colour
    line_widths: tuple[int, ...] = (1, 1, 2)
    stroke_widths: tuple[int, ...] = (1, 1, 2, 3)  # of dots and short strokes
    grain: float = 12.0  # standard deviation, of 255
    blur: float = 0.7  # radius in pixels, at most
    contrast: int = 100  # least difference of brightness between ground and ink
    own_colours: float = 0.5  # share of pictures in which each letter has a colour of its own


CAPTCHA = Hand(turn=22.0, shear=0.18, perspective=0.12, closeness=(0.0, 0.25), wave=2.0)
# What the reader learns first: other lengths and little disturbance, so that captchas are new to it.
PLAIN = Hand(
    lengths=(1, 2, 3, 4, 5, 6), heights=(0.36, 0.85), turn=26.0, shear=0.20, perspective=0.14,
    closeness=(-0.04, 0.4), wave=1.6, lines=(0, 2), dots=(0, 40), grain=10.0, blur=0.8, contrast=60,
)  # fmt: skip
# Then letters that touch, overlap or stand far apart, of little contrast: what software draws in many ways.
CROWDED = Hand(
    lengths=(3, 4, 5, 6), heights=(0.40, 0.95), closeness=(-0.30, 0.8), dots=(0, 60), dashes=0.5,
    contrast=40, lines=(0, 2), wave=2.0,
)  # fmt: skip
# And what makes that hard: narrow letters over each other, thick strokes and blots in the ink's own colour.
HEAVY = Hand(
    lengths=(4, 5, 6), heights=(0.50, 0.95), squeeze=(0.5, 1.1), closeness=(-0.22, 0.25), perspective=0.2,
    lines=(0, 2), line_widths=(1, 2, 3, 4), dots=(10, 50), dashes=0.8, stroke_widths=(1, 2, 3, 4),
    contrast=40, wave=1.2, own_colours=0.15,
)  # fmt: skip
HANDS = {"captcha": CAPTCHA, "plain": PLAIN, "crowded": CROWDED, "heavy": HEAVY}


@dataclass(frozen=True)
class Drawn:
    """A picture, what is written on it, and each letter's box as fractions of the picture."""

    picture: Image.Image
    text: str
    boxes: tuple[Box, ...]


def draw(rng: random.Random, hand: Hand, faces: tuple[str | None, ...] = (None,)) -> Drawn:
    """One picture. `faces` are font files, None for Pillow's own; a picture's letters share one or two."""
    text = "".join(rng.choice(LETTERS) for _ in range(rng.choice(hand.lengths)))
    noise = np.random.default_rng(rng.getrandbits(64))
    ground, ink = _colours(rng, hand.contrast)
    picture = _ground(rng, noise, ground)
    chosen = rng.sample(faces, min(len(faces), rng.choice((1, 1, 2))))
    each = rng.random() < hand.own_colours
    glyphs = _fitted(rng, hand, [_glyph(rng, hand, letter, rng.choice(chosen)) for letter in text])
    boxes: list[Box] = []
    for glyph, left, top in glyphs:
        colour = _ink_on(rng, ground, hand.contrast) if each else ink
        picture.paste(colour, (left, top), glyph)
        right, bottom = left + glyph.width, top + glyph.height
        boxes.append((left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT))
    _scribble(rng, picture, hand, ink)
    picture = _finish(rng, noise, picture, hand)
    return Drawn(picture, text, tuple(boxes))


def _colours(rng: random.Random, contrast: int) -> tuple[Colour, Colour]:
    dark = rng.random() < 0.15
    low, high = (0, 90) if dark else (150, 255)
    ground: Colour = (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))
    return ground, _ink_on(rng, ground, contrast)


def _brightness(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _ink_on(rng: random.Random, ground: Colour, contrast: int) -> Colour:
    """A colour that differs enough in brightness from the ground."""
    while True:
        colour: Colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if abs(_brightness(colour) - _brightness(ground)) >= contrast:
            return colour


def _ground(rng: random.Random, noise: np.random.Generator, colour: Colour) -> Image.Image:
    """A plain ground, or one that turns slowly into another shade, or a blotched one."""
    kind = rng.random()
    if kind < 0.4:
        return Image.new("RGB", (WIDTH, HEIGHT), colour)
    cells = (2, 2) if kind < 0.7 else (5, 9)
    shades = np.array(colour) + noise.normal(0, 14, (*cells, 3))
    small = Image.fromarray(shades.clip(0, 255).astype(np.uint8))
    return small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@lru_cache(maxsize=4096)
def _clean(letter: str, face: str | None) -> Image.Image:
    font = load_face(face, INK_SIZE)
    left, top, right, bottom = font.getbbox(letter)
    mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), letter, font=font, fill=255)
    return mask.crop(visible(mask))


def _glyph(rng: random.Random, hand: Hand, letter: str, face: str | None) -> Image.Image:
    """A letter's mask, bent, at the size that it is drawn in."""
    mask = _clean(letter, face)
    height = rng.uniform(*hand.heights) * HEIGHT
    width = max(4.0, height * mask.width / mask.height * rng.uniform(*hand.squeeze))
    shift, turn = hand.perspective, math.radians(rng.uniform(-hand.turn, hand.turn))
    shear = rng.uniform(-hand.shear, hand.shear)
    corners: list[tuple[float, float]] = []
    for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        x, y = (x + rng.uniform(-shift, shift)) * width, (y + rng.uniform(-shift, shift)) * height
        x += shear * y
        corners.append((x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)))
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    placed = [(x - left + 1, y - top + 1) for x, y in corners]
    size = math.ceil(max(x for x, _ in placed)) + 1, math.ceil(max(y for _, y in placed)) + 1
    bent = mask.transform(
        size, Image.Transform.PERSPECTIVE, _perspective(placed, mask.size), Image.Resampling.BICUBIC
    )
    return bent.crop(visible(bent))


def _perspective(corners: list[tuple[float, float]], size: tuple[int, int]) -> list[float]:
    """The eight numbers with which Pillow finds the place in the plain letter for one in the bent letter."""
    width, height = size
    rows: list[list[float]] = []
    values: list[float] = []
    plain = ((0, 0), (width, 0), (width, height), (0, height))
    for (x, y), (u, v) in zip(corners, plain, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return [float(number) for number in np.linalg.solve(np.array(rows), np.array(values, dtype=float))]


def _fitted(rng: random.Random, hand: Hand, glyphs: list[Image.Image]) -> list[tuple[Image.Image, int, int]]:
    """The letters with their left and top: side by side, made narrower where they would not fit."""
    gaps = [rng.uniform(*hand.closeness) * glyph.width for glyph in glyphs[:-1]]
    space = WIDTH - 6.0
    wide = sum(glyph.width for glyph in glyphs) + sum(gaps)
    if wide > space:
        by = space / wide
        sizes = [(max(4, round(glyph.width * by)), glyph.height) for glyph in glyphs]
        glyphs = [
            glyph.resize(size, Image.Resampling.BILINEAR) for glyph, size in zip(glyphs, sizes, strict=True)
        ]
        gaps, wide = [gap * by for gap in gaps], space
    at = 3 + rng.uniform(0, space - wide)
    placed: list[tuple[Image.Image, int, int]] = []
    for glyph, gap in zip(glyphs, [*gaps, 0.0], strict=True):
        if glyph.height > HEIGHT - 2:
            glyph = glyph.resize((glyph.width, HEIGHT - 2), Image.Resampling.BILINEAR)
        placed.append((glyph, round(at), rng.randint(1, HEIGHT - 1 - glyph.height)))
        at += glyph.width + gap
    return placed


def _scribble(rng: random.Random, picture: Image.Image, hand: Hand, ink: Colour) -> None:
    """Lines and arcs over the writing, and dots."""
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(*hand.lines)):
        colour = ink if rng.random() < 0.5 else _any(rng)
        start, end = rng.randint(0, HEIGHT), rng.randint(0, HEIGHT)
        bend, width = rng.uniform(-30, 30), rng.choice(hand.line_widths)
        left, right = rng.randint(0, WIDTH // 4), rng.randint(WIDTH * 3 // 4, WIDTH)
        steps = [step / 16 for step in range(17)]
        path = [
            (left + (right - left) * t, start + (end - start) * t + bend * math.sin(math.pi * t))
            for t in steps
        ]
        pen.line(path, fill=colour, width=width)
    dashed = rng.random() < hand.dashes
    for _ in range(rng.randint(*hand.dots)):
        x, y = rng.randint(0, WIDTH), rng.randint(0, HEIGHT)
        width = rng.choice(hand.stroke_widths)
        if dashed:
            pen.line((x, y, x + rng.randint(-2, 2), y + rng.randint(-2, 2)), fill=ink, width=width)
        else:
            pen.ellipse((x, y, x + width - 1, y + width - 1), fill=_any(rng))


def _any(rng: random.Random) -> Colour:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def _finish(rng: random.Random, noise: np.random.Generator, picture: Image.Image, hand: Hand) -> Image.Image:
    """Wave, blur, grain."""
    pixels = np.asarray(picture)
    if hand.wave:
        rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
        across = _sine(rng, hand.wave, rows, HEIGHT)
        down = _sine(rng, hand.wave, columns, WIDTH)
        from_rows = np.rint(rows + down).astype(int).clip(0, HEIGHT - 1)
        from_columns = np.rint(columns + across).astype(int).clip(0, WIDTH - 1)
        pixels = pixels[from_rows, from_columns]
    if (radius := rng.uniform(-hand.blur, hand.blur)) > 0.2:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
    if (strength := rng.uniform(0, hand.grain)) > 1:
        pixels = pixels + noise.normal(0, strength, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _sine(rng: random.Random, most: float, at: np.ndarray, length: int) -> np.ndarray:
    waves, phase = rng.uniform(0.7, 2.2), rng.uniform(0, 2 * math.pi)
    return rng.uniform(0.3, 1.0) * most * np.sin(2 * math.pi * waves * at / length + phase)
