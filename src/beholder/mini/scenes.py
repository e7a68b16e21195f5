"""What a scene is: things and writings on a background, frozen, with the boxes that they take up."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from beholder.mini import shapes
from beholder.mini.backgrounds import Background
from beholder.mini.colours import RGB

Split = Literal["train", "validation", "test"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Of eight scenes, one belongs to validation and one to test.
DOMAINS: tuple[Split, ...] = ("validation", "test", "train", "train", "train", "train", "train", "train")


@dataclass(frozen=True, slots=True)
class Outline:
    """A line along a thing's edge, centred on it."""

    rgb: RGB
    width: float


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape. `form` (0 to 1) varies its proportions; `extent` its longer side in pixels, no outline."""

    shape: str
    colour: str
    size: str
    rgb: RGB
    x: float
    y: float
    extent: float
    rotation: float
    form: float
    outline: Outline | None
    shading: str  # "flat", "vertical" or "radial"
    shade: RGB
    shadow: float  # how far the shadow falls, in shares of the extent; 0 for none
    box: Box  # tight, outline included, shadow not

    @property
    def contours(self) -> tuple[shapes.Contour, ...]:
        """The polygons of the shape around its own centre."""
        return shapes.contours(self.shape, self.form, self.extent, self.rotation)


@dataclass(frozen=True, slots=True)
class Plate:
    """The sign behind a writing: a rectangle that is turned with it."""

    rgb: RGB
    border: RGB | None
    padding: float  # pixels around the letters
    box: Box


@dataclass(frozen=True, slots=True)
class Writing:
    """A text; `box` is the tight box of its ink."""

    text: str
    font: str
    size: int
    colour: str
    rgb: RGB
    rotation: float
    plate: Plate | None
    box: Box

    @property
    def x(self) -> float:
        """The middle, across."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        """The middle, down."""
        return (self.box[1] + self.box[3]) / 2

    @property
    def area(self) -> Box:
        """The box of everything that is drawn for it."""
        return self.plate.box if self.plate else self.box


@dataclass(frozen=True, slots=True)
class Finish:
    """How the picture is drawn and stored."""

    supersampling: int  # 1 leaves jagged edges
    blur: float  # radius in pixels
    noise: float  # standard deviation over the whole picture
    noise_seed: int
    quality: int | None  # of the JPEG file; None for PNG


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything on one picture, things in drawing order."""

    width: int
    height: int
    background: Background
    things: tuple[Thing, ...]
    writings: tuple[Writing, ...]
    finish: Finish

    @property
    def shorter(self) -> int:
        """The shorter side in pixels."""
        return min(self.width, self.height)

    @property
    def key(self) -> str:
        """What makes two scenes the same for learning: kinds and rough places, not exact pixels."""
        content = [f"{self.width / self.height:.1f}", self.background.kind, self.background.colour or ""]
        for thing in sorted(self.things, key=lambda t: (t.x, t.y)):
            content.append(f"{thing.shape} {thing.colour} {thing.size} {self.cell(thing.box)}")
        for writing in sorted(self.writings, key=lambda w: (w.x, w.y)):
            content.append(f"{writing.text} {self.cell(writing.box)}")
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @property
    def domain(self) -> Split:
        """The only split that this scene may belong to."""
        return DOMAINS[int(self.key[:8], 16) % 8]

    def cell(self, box: Box) -> tuple[int, int]:
        """The middle of a box on a grid of 32 × 32."""
        return int((box[0] + box[2]) * 16 / self.width), int((box[1] + box[3]) * 16 / self.height)


def overlap(first: Box, second: Box) -> float:
    """The area that two boxes share."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, across) * max(0.0, down)


def grow(box: Box, margin: float) -> Box:
    """The box with a margin on every side."""
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
