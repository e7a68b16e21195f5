"""The twelve colour names of the drawn worlds: which RGB values a name covers, and how far colours are apart.

Named values of CSS, matplotlib and material palettes are the anchors, so that pictures drawn by other
software are covered; values that people name differently (magenta, teal, tomato, chocolate) have none here.
"""

import colorsys
import math
import random
from collections.abc import Iterable

RGB = tuple[int, int, int]

# The first anchor of each name is what the plain word gives in most drawing software.
ANCHORS: dict[str, tuple[RGB, ...]] = {
    "red": (
        (255, 0, 0),
        (214, 39, 40),
        (220, 20, 60),
        (139, 0, 0),
        (231, 60, 50),
        (200, 0, 0),
        (229, 57, 53),
    ),
    "green": (
        (0, 128, 0),
        (0, 255, 0),
        (44, 160, 44),
        (34, 139, 34),
        (46, 204, 113),
        (50, 205, 50),
        (0, 100, 0),
        (46, 139, 87),
        (67, 160, 71),
        (76, 175, 80),
        (124, 252, 0),
    ),
    "blue": (
        (0, 0, 255),
        (31, 119, 180),
        (65, 105, 225),
        (0, 0, 128),
        (30, 144, 255),
        (33, 150, 243),
        (52, 120, 219),
        (70, 130, 180),
        (100, 149, 237),
        (25, 25, 150),
    ),
    "yellow": ((255, 255, 0), (255, 215, 0), (241, 205, 15), (255, 235, 59), (250, 225, 60)),
    "orange": ((255, 165, 0), (255, 127, 14), (255, 140, 0), (230, 126, 34), (243, 156, 18), (255, 120, 0)),
    "purple": (
        (128, 0, 128),
        (148, 103, 189),
        (102, 51, 153),
        (148, 0, 211),
        (75, 0, 130),
        (155, 89, 182),
        (156, 39, 176),
        (138, 43, 226),
        (147, 112, 219),
    ),
    "pink": (
        (255, 192, 203),
        (255, 105, 180),
        (255, 20, 147),
        (227, 119, 194),
        (255, 182, 193),
        (244, 143, 177),
    ),
    "brown": (
        (139, 69, 19),
        (165, 42, 42),
        (140, 86, 75),
        (160, 82, 45),
        (121, 85, 72),
        (101, 67, 33),
        (93, 64, 55),
        (120, 70, 30),
    ),
    "black": ((0, 0, 0), (20, 20, 20), (30, 30, 30), (15, 18, 24)),
    "white": ((255, 255, 255), (250, 250, 250), (245, 245, 245), (255, 253, 248)),
    "grey": (
        (128, 128, 128),
        (127, 127, 127),
        (169, 169, 169),
        (192, 192, 192),
        (105, 105, 105),
        (211, 211, 211),
    ),
    "cyan": ((0, 255, 255), (23, 190, 207), (0, 188, 212), (64, 224, 208), (0, 206, 209), (77, 208, 225)),
}
NAMES = tuple(ANCHORS)
FLAT = frozenset({"black", "white", "grey"})

# Hue (degrees, may run below 0), saturation and value that a jittered anchor must keep.
REGIONS: dict[str, tuple[float, float, float, float, float, float]] = {
    "red": (-14, 9, 0.78, 1.0, 0.52, 1.0),
    "green": (86, 158, 0.4, 1.0, 0.36, 1.0),
    "blue": (203, 246, 0.54, 1.0, 0.42, 1.0),
    "yellow": (47, 64, 0.6, 1.0, 0.88, 1.0),
    "orange": (23, 42, 0.78, 1.0, 0.87, 1.0),
    "purple": (258, 304, 0.4, 1.0, 0.42, 0.93),
    "pink": (312, 354, 0.2, 0.95, 0.86, 1.0),
    "brown": (-4, 33, 0.38, 0.9, 0.33, 0.66),
    "black": (-360, 360, 0.0, 1.0, 0.0, 0.15),
    "white": (-360, 360, 0.0, 0.05, 0.94, 1.0),
    "grey": (-360, 360, 0.0, 0.07, 0.38, 0.84),
    "cyan": (170, 191, 0.5, 1.0, 0.72, 1.0),
}
# Brown that is nearly red, and dark red that is nearly brown, are told apart by saturation.
DARK_RED_SATURATION = 0.93


def belongs(rgb: RGB, name: str) -> bool:
    """Whether people would plainly call this value by this name."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))
    low, high, *rest = REGIONS[name]
    degrees = hue * 360 if hue * 360 <= high else hue * 360 - 360
    if name == "red" and value < 0.76 and saturation < DARK_RED_SATURATION:
        return False
    if name == "pink" and degrees > 340 and saturation > 0.6:  # crimson
        return False
    inside = low <= degrees <= high or name in FLAT
    return inside and rest[0] <= saturation <= rest[1] and rest[2] <= value <= rest[3]


def pick(name: str, rng: random.Random) -> RGB:
    """A value of this name: an anchor, mixed with a neighbour and jittered while it keeps its name."""
    anchors = ANCHORS[name]
    start = anchors[0] if rng.random() < 0.3 else rng.choice(anchors)
    if rng.random() < 0.3:
        return start
    other, share = rng.choice(anchors), rng.random() * 0.5
    spread = 3 if name in FLAT else 14
    for _ in range(6):
        shift = rng.randint(-20, 20) if name == "grey" else 0
        mixed = [
            round(a + (b - a) * share) + shift + rng.randint(-spread, spread)
            for a, b in zip(start, other, strict=True)
        ]
        rgb = (clamp(mixed[0]), clamp(mixed[1]), clamp(mixed[2]))
        if belongs(rgb, name):
            return rgb
    return start


def clamp(channel: float) -> int:
    """A channel as a whole number from 0 to 255."""
    return max(0, min(255, round(channel)))


def blend(first: RGB, second: RGB, share: float) -> RGB:
    """The colour `share` of the way from the first to the second."""
    a, b = first, second
    return (
        clamp(a[0] + (b[0] - a[0]) * share),
        clamp(a[1] + (b[1] - a[1]) * share),
        clamp(a[2] + (b[2] - a[2]) * share),
    )


def distance(first: RGB, second: RGB) -> float:
    """How different two colours look, 0 to about 765 (RGB distance with weights by mean red)."""
    mean = (first[0] + second[0]) / 2
    red, green, blue = (a - b for a, b in zip(first, second, strict=True))
    return math.sqrt(
        (2 + mean / 256) * red * red + 4 * green * green + (2 + (255 - mean) / 256) * blue * blue
    )


def nearest(rgb: RGB, others: Iterable[RGB]) -> float:
    """The distance to the closest of several colours; infinite if there are none."""
    return min((distance(rgb, other) for other in others), default=math.inf)


def lightness(rgb: RGB) -> float:
    """Perceived lightness, 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
