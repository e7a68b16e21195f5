"""Places writings on a picture: what they say, in which typeface, what size and colour, on what plate."""

import random

from beholder.mini import colours, words
from beholder.mini.backgrounds import Background
from beholder.mini.colours import RGB
from beholder.mini.fonts import FontBook
from beholder.mini.scenes import Plate, Writing, grow, overlap

# Letters must stay readable after the picture is squeezed to a square of 192 pixels.
LEAST_HEIGHT, LEAST_WIDTH = 10 / 192, 6.5 / 192
# The least distance of a text's colour from what lies behind it, and the least difference in lightness.
CONTRAST, LIGHTNESS = 150.0, 80.0


def place_writing(
    rng: random.Random,
    fonts: FontBook,
    canvas: tuple[int, int],
    background: Background,
    others: list[Writing],
    big: bool,
    sheet: tuple[int, int] | None = None,
) -> Writing | None:
    """A readable text at a free place; None if none was found in some tries.

    Its size fits a picture of `canvas`, (width, height) in pixels; it lies on that, or anywhere on a larger
    `sheet`, where any number of writings may stand side by side.
    """
    width, height = sheet or canvas
    for _ in range(8):
        text = words.pick_text(rng)
        font = fonts.names[0] if rng.random() < 0.12 else rng.choice(fonts.names)
        size = pick_text_size(rng, fonts, text, font, canvas, big)
        if size is None:
            continue
        rotation = rng.uniform(-8, 8) if rng.random() < 0.25 else 0.0
        mask = fonts.ink(text, font, size, rotation)
        # A plate as high as it is wide, in the picture or in its squeezed form, could be taken for a square.
        is_wide = mask.width >= 1.6 * mask.height * max(1.0, canvas[0] / canvas[1])
        has_plate = is_wide and rng.random() < 0.3
        padding = mask.height * rng.uniform(0.15, 0.5) if has_plate else 0.0
        half = (mask.width / 2 + padding, mask.height / 2 + padding)
        across, down = width / 2 - half[0] - 2, height / 2 - half[1] - 2
        if across < 0 or down < 0:
            continue
        x = width / 2 + (rng.uniform(-across, across) if rng.random() < 0.7 else 0.0)
        y = height / 2 + rng.uniform(-down, down)
        left, top = round(x - mask.width / 2), round(y - mask.height / 2)
        box = (left, top, left + mask.width, top + mask.height)
        area = grow(box, padding)
        # Two writings are read from top to bottom, so one must lie clearly below the other.
        level = 0.0 if sheet else 0.1 * height
        if any(abs(y - other.y) < level or overlap(grow(area, 4), other.area) for other in others):
            continue
        plate = None
        if has_plate:
            shade = colours.pick(rng.choice(colours.NAMES), rng)
            border = (
                colours.pick(rng.choice(("black", "white", "grey", "red")), rng)
                if rng.random() < 0.4
                else None
            )
            plate = Plate(shade, border, padding, area)
        colour, rgb = pick_ink(rng, (plate.rgb,) if plate else background.shades, background.strength)
        return Writing(text, font, size, colour, rgb, rotation, plate, box)
    return None


def pick_text_size(
    rng: random.Random, fonts: FontBook, text: str, font: str, canvas: tuple[int, int], big: bool
) -> int | None:
    """A font size between just readable and just fitting; None if there is no such size."""
    probe = 64
    mask = fonts.ink(text, font, probe)
    across, down = mask.width / probe, mask.height / probe
    least = max(LEAST_HEIGHT * canvas[1] / down, LEAST_WIDTH * canvas[0] * len(text) / across)
    most = min(0.9 * canvas[0] / across, (0.6 if big else 0.3) * canvas[1] / down)
    if most < least:
        return None
    share = rng.random() if big else rng.random() ** 1.5
    return max(6, round(least + (most - least) * share + 0.5))


def pick_ink(rng: random.Random, shades: tuple[RGB, ...], strength: float) -> tuple[str, RGB]:
    """A text colour that differs enough in lightness to be read: often black or white."""
    for attempt in range(30):
        plain = attempt < 2 and rng.random() < 0.6
        name = rng.choice(("black", "white")) if plain or attempt >= 20 else rng.choice(colours.NAMES)
        rgb = colours.pick(name, rng)
        gap = min(abs(colours.lightness(rgb) - colours.lightness(shade)) for shade in shades)
        if colours.nearest(rgb, shades) >= CONTRAST + strength and gap >= LIGHTNESS:
            return name, rgb
    return max(
        (("black", (0, 0, 0)), ("white", (255, 255, 255))), key=lambda c: colours.nearest(c[1], shades)
    )
