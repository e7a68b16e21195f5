"""Fills a picture with things: free places or a grid, one after the other, none hidden by another."""

import random

from beholder.mini import colours, shapes
from beholder.mini.backgrounds import Background
from beholder.mini.colours import RGB
from beholder.mini.scenes import Box, Outline, Thing, grow, overlap

# Extent of a thing's longer side as a share of the picture's shorter side. The gaps keep the names apart.
SIZES: dict[str, tuple[float, float]] = {"small": (0.10, 0.15), "medium": (0.18, 0.26), "large": (0.32, 0.45)}
CONTRAST = 115.0  # the least distance of a thing's colour from what lies behind it


class Arrangement:
    """The things of one picture, and the tastes that they share."""

    def __init__(
        self, rng: random.Random, width: int, height: int, background: Background, taken: tuple[Box, ...]
    ) -> None:
        self.rng, self.width, self.height, self.background, self.taken = rng, width, height, background, taken
        self.shorter = min(width, height)
        self.things: list[Thing] = []
        self.touching = rng.random() < 0.15
        self.styles = (
            rng.random() < 0.35,
            rng.random() < 0.25,
            rng.random() < 0.12,
        )  # outline, shading, shadow
        # Repeated kinds make counting worth learning.
        self.favourite_shape = rng.choice(shapes.NAMES) if rng.random() < 0.4 else None
        self.favourite_colour = rng.choice(colours.NAMES) if rng.random() < 0.3 else None
        self.same_size = rng.choice(tuple(SIZES)) if rng.random() < 0.2 else None

    def fill(self) -> list[Thing]:
        """Sample the number of things and place as many as fit."""
        weights = (3, 18, 21, 19, 15, 12, 12)
        wanted = self.rng.choices(range(7), weights)[0]
        spots = self.grid(wanted) if wanted >= 2 and self.rng.random() < 0.2 else [None] * wanted
        for spot in spots:
            for attempt in range(3):
                # A thing that found no room is tried again as a small one.
                size = "small" if attempt else self.pick_size(wanted, spot)
                if thing := self.place(size, spot):
                    self.things.append(thing)
                    break
        return self.things

    def grid(self, wanted: int) -> list[Box | None]:
        """Cells of a regular grid, in reading order or shuffled."""
        columns = self.rng.choice([n for n in (1, 2, 3, wanted) if n <= wanted])
        if wanted > 3 and columns == 1:
            columns = 2
        rows = -(-wanted // columns)
        across, down = self.width / columns, self.height / rows
        cells: list[Box | None] = [
            (column * across, row * down, (column + 1) * across, (row + 1) * down)
            for row in range(rows)
            for column in range(columns)
        ]
        if self.rng.random() < 0.5:
            self.rng.shuffle(cells)
        return cells[:wanted]

    def pick_size(self, wanted: int, spot: Box | None) -> str:
        """A size that leaves room for the others."""
        rng = self.rng
        large = {1: 5, 2: 4, 3: 3, 4: 2}.get(wanted, 1)
        size = self.same_size or rng.choices(tuple(SIZES), (3, 4, large))[0]
        if spot is not None:
            room = min(spot[2] - spot[0], spot[3] - spot[1]) / self.shorter
            while size != "small" and SIZES[size][1] > room * 0.9:
                size = "medium" if size == "large" else "small"
        return size

    def place(self, size: str, spot: Box | None) -> Thing | None:
        """A thing of this size at the first free place of some tries; None if there is none."""
        rng = self.rng
        shape = (
            self.favourite_shape if self.favourite_shape and rng.random() < 0.5 else rng.choice(shapes.NAMES)
        )
        colour, rgb, outline = self.pick_colour(self.shorter * sum(SIZES[size]) / 2)
        if colour is None:
            return None
        extent, rotation, form = (
            self.shorter * rng.uniform(*SIZES[size]),
            pick_rotation(rng, shape),
            rng.random(),
        )
        half_width, half_height = shapes.half_size(shapes.contours(shape, form, extent, rotation))
        stroke = outline.width / 2 if outline else 0.0
        half_width, half_height = half_width + stroke, half_height + stroke
        centre = self.find_place(half_width, half_height, rgb, spot)
        if centre is None:
            return None
        x, y = centre
        shading, shade = self.pick_shading(colour, rgb)
        shadow = rng.uniform(0.03, 0.08) if self.styles[2] else 0.0
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        return Thing(
            shape, colour, size, rgb, x, y, extent, rotation, form, outline, shading, shade, shadow, box
        )

    def pick_colour(self, extent: float) -> tuple[str | None, RGB, Outline | None]:
        """A colour that stands out from the background, or one that its outline sets apart."""
        rng, shades = self.rng, self.background.shades
        needed = CONTRAST + 2 * self.background.strength
        for _ in range(12):
            favourite = self.favourite_colour and rng.random() < 0.6
            name = self.favourite_colour if favourite and self.favourite_colour else rng.choice(colours.NAMES)
            rgb = colours.pick(name, rng)
            outline = self.pick_outline(rgb, extent)
            if colours.nearest(rgb, shades) >= needed:
                return name, rgb, outline
            if outline and rng.random() < 0.4 and colours.nearest(outline.rgb, shades) >= needed + 80:
                return name, rgb, outline
        return None, (0, 0, 0), None

    def pick_outline(self, rgb: RGB, extent: float) -> Outline | None:
        """Black, white, dark or any other contrasting line; thin enough to leave the colour plain."""
        rng = self.rng
        if not (self.styles[0] and rng.random() < 0.8):
            return None
        choices: tuple[RGB, ...] = ((0, 0, 0), (0, 0, 0), (255, 255, 255), (40, 40, 40))
        line = rng.choice(choices) if rng.random() < 0.7 else colours.pick(rng.choice(colours.NAMES), rng)
        if colours.distance(line, rgb) < 100:
            line = colours.blend(rgb, (0, 0, 0), 0.5)
        return Outline(line, max(1.0, extent * rng.uniform(0.015, 0.065)))

    def pick_shading(self, colour: str, rgb: RGB) -> tuple[str, RGB]:
        """A second shade that keeps the colour's name."""
        rng = self.rng
        if not (self.styles[1] and rng.random() < 0.8):
            return "flat", rgb
        end = (255, 255, 255) if rng.random() < 0.5 and colour != "black" else (0, 0, 0)
        share = rng.uniform(0.05, 0.12 if colour in colours.FLAT or colour == "orange" else 0.25)
        return rng.choice(("vertical", "radial")), colours.blend(rgb, end, share)

    def find_place(
        self, half_width: float, half_height: float, rgb: RGB, spot: Box | None
    ) -> tuple[float, float] | None:
        """A centre where the thing lies inside the picture and hides nothing."""
        rng, edge = self.rng, max(1.0, 0.01 * self.shorter)
        across, down = self.width / 2 - half_width - edge, self.height / 2 - half_height - edge
        if across < 0 or down < 0:
            return None
        for attempt in range(24):
            x = self.width / 2 + rng.uniform(-across, across)
            y = self.height / 2 + rng.uniform(-down, down)
            if spot is not None:
                if attempt:
                    return None
                x, y = (spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2
            elif attempt == 0 and not self.things and rng.random() < 0.1:
                x, y = self.width / 2, self.height / 2
            if self.is_free((x - half_width, y - half_height, x + half_width, y + half_height), rgb):
                return x, y
        return None

    def is_free(self, box: Box, rgb: RGB) -> bool:
        """Whether nothing is there, or, in a touching arrangement, only a corner of something unlike it."""
        gap = 0.015 * self.shorter
        if box[0] < 0 or box[1] < 0 or box[2] > self.width or box[3] > self.height:
            return False
        if any(overlap(grow(box, gap), area) for area in self.taken):
            return False
        for thing in self.things:
            shared = overlap(grow(box, gap), thing.box)
            if not shared:
                continue
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, thing.box)]
            if not self.touching or overlap(box, thing.box) > 0.12 * min(areas):
                return False
            if colours.distance(rgb, thing.rgb) < CONTRAST:
                return False
        return True


def pick_rotation(rng: random.Random, shape: str) -> float:
    """Degrees: upright more often than not; squares and crosses never turn into something else."""
    kind = rng.random()
    if shape in ("circle", "ring"):
        return 0.0
    if shape == "arrow":
        return rng.choice((0, 90, 180, 270)) + (rng.uniform(-20, 20) if kind < 0.5 else 0.0)
    if shape in ("square", "cross"):
        return rng.uniform(-20, 20) if kind < 0.4 else 0.0
    turned = 180.0 if shape == "moon" and rng.random() < 0.4 else 0.0
    if kind < 0.45:
        return turned
    return rng.uniform(-25, 25) + turned if kind < 0.8 else rng.uniform(0, 360)
