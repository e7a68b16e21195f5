"""Draws scenes of the worlds with matplotlib instead of Pillow; nothing is ever trained on these pictures.

The things stand where the scene has them, but what a program decides is matplotlib's: the curves of each
shape, edges, joins and anti-aliasing, hatches and colour ramps, typefaces. The boxes of the scene that comes
back are those of the paths that were drawn.
"""

# pyright: basic
# (matplotlib's own types leave too much open for strict checking)

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from beholder.core.errors import MissingExtraError
from beholder.mini.backgrounds import Background
from beholder.mini.scenes import Box, Outline, Scene, Thing, Writing

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Annulus, FancyArrow, FancyBboxPatch, PathPatch, Rectangle
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D
except ImportError as error:
    raise MissingExtraError.of("drawing worlds with other software", "eval") from error

POINTS = 72 / 100  # of a pixel, at the 100 dots per inch that pictures are drawn at
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral", "STIXGeneralBol",
    "cmr10", "cmb10", "cmss10", "cmtt10",
)  # fmt: skip
HATCHES = {"stripes": "//", "checks": "xx", "dots": "..", "grid": "++"}


def redraw(scene: Scene, rng: random.Random) -> tuple[Image.Image, Scene]:
    """The picture, and the scene as it was drawn: `rng` chooses what the scene leaves to the software."""
    figure = Figure(figsize=(scene.width / 100, scene.height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    paint_background(axes, scene)
    edge = Outline((0, 0, 0), rng.uniform(1.0, 2.0)) if rng.random() < 0.25 else None
    things = tuple(draw_thing(axes, thing, edge, rng) for thing in scene.things)
    writings = tuple(draw_writing(axes, writing, rng) for writing in scene.writings)
    # Only now: pictures that were added as images have moved the limits. Down is positive, as in the scene.
    axes.set(xlim=(0, scene.width), ylim=(scene.height, 0), aspect="auto")
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture, replace(scene, things=things, writings=writings)


def shade(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour as matplotlib takes it."""
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255


def paint_background(axes: Axes, scene: Scene) -> None:
    """The scene's shades: flat, hatched, or as a small image that matplotlib interpolates."""
    background, size = scene.background, (scene.width, scene.height)
    flat = Rectangle((0, 0), *size, facecolor=shade(background.shades[0]), edgecolor="none", zorder=-2)
    axes.add_patch(flat)
    if background.kind in HATCHES:
        second = shade(background.shades[1])
        axes.add_patch(
            Rectangle(
                (0, 0),
                size[0],
                size[1],
                fill=False,
                ec=second,
                lw=0,
                hatch=HATCHES[background.kind],
                zorder=-1,
            )
        )
    elif background.kind != "plain":
        pixels, how = ramp_of(background, size)
        axes.imshow(pixels, extent=(0, size[0], size[1], 0), interpolation=how, zorder=-1)


def ramp_of(background: Background, size: tuple[int, int]) -> tuple[Any, str]:
    """A small picture of a background's shades, and how matplotlib is to enlarge it."""
    shades = np.array(background.shades, float) / 255
    dice = np.random.default_rng(background.seed)
    if background.kind == "noise":
        grain = dice.normal(0, background.strength / 255, (size[1] // 2, size[0] // 2, 3))
        return np.clip(shades[0] + grain, 0, 1), "nearest"
    if background.kind == "blotches":
        return shades[dice.integers(0, len(shades), (5, 5))], "hanning"
    steps = np.linspace(0, 1, 16)[:, None]
    along = shades[0] + (shades[-1] - shades[0]) * steps
    across = abs(np.cos(np.deg2rad(background.angle))) > 0.7
    return (along[None, :] if across else along[:, None]), "bilinear"


# Each shape is matplotlib's own path or made of its curves; up is positive, size and place do not matter.


def heart() -> Path:
    """Four Bezier curves."""
    points = [(0, -1), (-0.4, -0.5), (-1, -0.1), (-1, 0.4), (-1, 0.9), (-0.2, 1), (0, 0.5)]
    points += [(-x, y) for x, y in reversed(points[:-1])]
    return Path(points, [Path.MOVETO] + [Path.CURVE4] * 12)


def moon() -> Path:
    """Most of a circle, and back along a smaller circle through the same two tips; open to the right."""
    outer, middle = Path.arc(50, 310), 0.5
    x, y = math.cos(math.radians(50)) - middle, math.sin(math.radians(50))
    turn = math.degrees(math.atan2(y, x))
    inner = Path.arc(turn, 360 - turn).transformed(Affine2D().scale(math.hypot(x, y)).translate(middle, 0))
    there, back = np.asarray(outer.vertices), np.asarray(inner.vertices)[::-1]
    curves = [Path.CURVE4] * (len(there) + len(back) - 2)
    return Path(np.concatenate([there, back[1:]]), [Path.MOVETO, *curves])


def cross(rng: random.Random) -> Path:
    """Two bars."""
    a = rng.uniform(0.28, 0.4)
    quarter = [(a, 1), (a, a), (1, a), (1, -a), (a, -a), (a, -1)]
    corners = [*quarter, *((-x, -y) for x, y in quarter)]
    return Path([*corners, corners[0]], closed=True)


def arrow(rng: random.Random) -> Path:
    """A block arrow to the right."""
    shaft, head = rng.uniform(0.45, 0.65), rng.uniform(0.7, 1)
    drawn = FancyArrow(0, 0, 2, 0, width=shaft, length_includes_head=True, head_width=1.5, head_length=head)
    return drawn.get_path()


def plain(rng: random.Random, corner: float) -> Path:
    """A square, with its corners a little round if `corner` is not 0."""
    style = f"round,pad=0,rounding_size={corner * rng.random():.3f}"
    return FancyBboxPatch((0, 0), 1, 1, boxstyle=style if corner else "square,pad=0").get_path()


SHAPES: dict[str, Callable[[random.Random], Path]] = {
    "circle": lambda rng: Path.unit_circle(),
    "square": lambda rng: plain(rng, rng.choice((0, 0, 0.1))),
    "triangle": lambda rng: Path.unit_regular_polygon(3),
    "star": lambda rng: Path.unit_regular_star(5, rng.uniform(0.38, 0.48)),
    "heart": lambda rng: heart(),
    "cross": cross,
    "ring": lambda rng: Annulus((0, 0), 1, rng.uniform(0.3, 0.5)).get_path(),
    "moon": lambda rng: moon(),
    "arrow": arrow,
}


def fit(path: Path, box: Box, margin: float = 0.0) -> Path:
    """The path, turned over (up becomes down), as large as fits into the box less a margin, in its middle."""
    bounds = path.get_extents()
    scale = min((box[2] - box[0] - 2 * margin) / bounds.width, (box[3] - box[1] - 2 * margin) / bounds.height)
    middle = (bounds.x0 + bounds.x1) / 2, (bounds.y0 + bounds.y1) / 2
    place = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return path.transformed(
        Affine2D().translate(-middle[0], -middle[1]).scale(scale, -scale).translate(*place)
    )


def bounds_of(path: Path, margin: float = 0.0) -> Box:
    """The tight box of a path and of a line along it that is two margins wide."""
    box = path.get_extents()
    return (
        float(min(box.x0, box.x1)) - margin,
        float(min(box.y0, box.y1)) - margin,
        float(max(box.x0, box.x1)) + margin,
        float(max(box.y0, box.y1)) + margin,
    )


def draw_thing(axes: Axes, thing: Thing, edge: Outline | None, rng: random.Random) -> Thing:
    """Draw a thing within the box that the scene keeps for it; `edge` is the outline of those without one."""
    line = edge
    if thing.outline:
        line = replace(thing.outline, width=max(1.0, thing.outline.width * rng.uniform(0.8, 1.3)))
    margin = line.width / 2 if line else 0.0
    path = SHAPES[thing.shape](rng).transformed(Affine2D().rotate_deg(-thing.rotation))
    path = fit(path, thing.box, margin)
    if thing.shadow:
        far = thing.shadow * thing.extent
        cast = path.transformed(Affine2D().translate(far, far))
        axes.add_patch(PathPatch(cast, facecolor=(0, 0, 0, 0.3), edgecolor="none"))
    filled = PathPatch(path, facecolor=shade(thing.rgb), edgecolor="none")
    axes.add_patch(filled)
    if thing.shading != "flat":
        ramp = np.linspace(shade(thing.rgb), shade(thing.shade), 24)[:, None]
        left, top, right, bottom = bounds_of(path)
        image = axes.imshow(ramp, extent=(left, right, bottom, top), interpolation="bilinear", zorder=1)
        image.set_clip_path(filled)
    if line:
        join = rng.choice(("round", "bevel"))
        axes.add_patch(
            PathPatch(path, fill=False, ec=shade(line.rgb), lw=line.width * POINTS, joinstyle=join)
        )
    return replace(thing, outline=line, box=bounds_of(path, margin))


def draw_writing(axes: Axes, writing: Writing, rng: random.Random) -> Writing:
    """Write the text within the box of its ink, in one of matplotlib's typefaces, and on its plate."""
    face = rng.choice(FACES)
    file = f"{mpl.get_data_path()}/fonts/ttf/{face}.ttf"
    straight = TextPath((0, 0), writing.text, 100, FontProperties(fname=file))
    turned = straight.transformed(Affine2D().rotate_deg(writing.rotation))
    letters = fit(turned, writing.box)
    plate = writing.plate
    if plate:
        scale = letters.get_extents().width / turned.get_extents().width
        size = np.asarray(straight.get_extents().size) * scale + 2 * plate.padding
        sign = FancyBboxPatch(
            (writing.x - size[0] / 2, writing.y - size[1] / 2),
            *size,
            boxstyle=rng.choice(("square,pad=0", f"round,pad=0,rounding_size={plate.padding / 2:.3f}")),
        ).get_path()
        sign = sign.transformed(Affine2D().rotate_deg_around(writing.x, writing.y, -writing.rotation))
        edge = dict(ec=shade(plate.border), lw=1.0) if plate.border else dict(ec="none")
        axes.add_patch(PathPatch(sign, facecolor=shade(plate.rgb), zorder=2, **edge))
        plate = replace(plate, box=bounds_of(sign))
    axes.add_patch(PathPatch(letters, facecolor=shade(writing.rgb), edgecolor="none", zorder=3))
    return replace(writing, font=face, plate=plate, box=bounds_of(letters))
