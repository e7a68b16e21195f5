"""The outlines of the nine shapes as polygons around the origin, turned and scaled to a wanted extent."""

import math
from collections.abc import Callable

Point = tuple[float, float]
Contour = tuple[Point, ...]

CURVE = 56  # corners of a polygon that stands for a full circle
TAU = math.tau


def arc(radius: float, start: float, end: float, steps: int, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Points on a circle from one angle to another, both included."""
    angles = (start + (end - start) * step / steps for step in range(steps + 1))
    return [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)) for angle in angles]


def circle(_: float) -> list[list[Point]]:
    """A disc."""
    return [arc(1, 0, TAU, CURVE)[:-1]]


def square(_: float) -> list[list[Point]]:
    """A square that stands on its side."""
    return [[(-1, -1), (1, -1), (1, 1), (-1, 1)]]


def triangle(form: float) -> list[list[Point]]:
    """A triangle that points up, from a little flat to a little steep."""
    half = 1.2 - 0.4 * form
    return [[(0, -1), (half, 0.8), (-half, 0.8)]]


def star(form: float) -> list[list[Point]]:
    """A star of five points, from slim to stout."""
    inner = 0.37 + 0.14 * form
    corners = (((1, inner)[i % 2], -TAU / 4 + i * TAU / 10) for i in range(10))
    return [[(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in corners]]


def heart(form: float) -> list[list[Point]]:
    """A heart, from wide to tall."""
    tall = 0.95 + 0.25 * form
    points: list[Point] = []
    for step in range(CURVE):
        angle = TAU * step / CURVE
        across = 16 * math.sin(angle) ** 3
        down = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        points.append((across / 16, -down / 16 * tall))
    return [points]


def cross(form: float) -> list[list[Point]]:
    """An upright plus sign, from thin to thick arms."""
    arm = 0.27 + 0.15 * form
    quarter = [(arm, -1), (arm, -arm), (1, -arm)]
    points: list[Point] = []
    for turn in range(4):
        cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
        points += [(x * cosine - y * sine, x * sine + y * cosine) for x, y in quarter]
    return [points]


def ring(form: float) -> list[list[Point]]:
    """A thick ring: the outer contour and the hole."""
    hole = 0.48 + 0.22 * form
    return [arc(1, 0, TAU, CURVE)[:-1], arc(hole, 0, TAU, CURVE)[:-1]]


def moon(form: float) -> list[list[Point]]:
    """A crescent, open to the right: a disc less a shifted, smaller disc."""
    bite = 0.82 + 0.08 * form
    shift = 0.42 + 0.16 * form
    across = (1 + shift * shift - bite * bite) / (2 * shift)
    tip = math.acos(across)
    inner_tip = math.atan2(math.sin(tip), across - shift)
    outer = arc(1, tip, TAU - tip, CURVE)
    inner = arc(bite, TAU - inner_tip, inner_tip, CURVE // 2, (shift, 0.0))
    return [outer + inner[1:-1]]


def arrow(form: float) -> list[list[Point]]:
    """A block arrow that points right."""
    shaft = 0.24 + 0.12 * form
    neck = 0.25 - 0.3 * form
    return [[(-1, -shaft), (neck, -shaft), (neck, -0.75), (1, 0), (neck, 0.75), (neck, shaft), (-1, shaft)]]


SHAPES: dict[str, Callable[[float], list[list[Point]]]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
    "ring": ring,
    "moon": moon,
    "arrow": arrow,
}
NAMES = tuple(SHAPES)


def contours(shape: str, form: float, extent: float, rotation: float) -> tuple[Contour, ...]:
    """The shape turned by `rotation` degrees, its longer side `extent` long, its box around the origin."""
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turned = [
        [(x * cosine - y * sine, x * sine + y * cosine) for x, y in points] for points in SHAPES[shape](form)
    ]
    xs, ys = [x for x, _ in turned[0]], [y for _, y in turned[0]]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    scale = extent / max(right - left, bottom - top)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    return tuple(
        tuple(((x - middle_x) * scale, (y - middle_y) * scale) for x, y in points) for points in turned
    )


def half_size(outlines: tuple[Contour, ...]) -> tuple[float, float]:
    """Half the width and half the height of contours that are centred on the origin."""
    return max(x for x, _ in outlines[0]), max(y for _, y in outlines[0])
