"""What each cell of a picture lies on, where the rows name their objects: labels of a tower's warm-up.

Rows have `objects`: what, colour, box as fractions of the picture. Pictures are shown whole or in parts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from beholder.core.errors import InputError
from beholder.processing.images import open_picture
from beholder.training.data import row_name, row_pictures

LABELS = ("what", "colour", "box", "weight", "middle")
BACKGROUND = 0
UNKNOWN = -1
NO_COLOUR = -100
LEAST_CELLS = 0.45  # the least extent of a thing, in cells, that a cell can be asked to name
LEAST_SEEN = 0.75  # the least share of a thing that tells what it is


class Names:
    """Names to class numbers, in the order of first use; class 0 is the background."""

    def __init__(self, rows: Sequence[dict[str, Any]], key: str) -> None:
        found = sorted({thing[key] for row in rows for thing in row["objects"] if thing.get(key)})
        self.numbers = {name: number for number, name in enumerate(found, start=1)}

    def __len__(self) -> int:
        return len(self.numbers) + 1

    def __getitem__(self, name: str) -> int:
        return self.numbers[name]


class PictureLabels(Dataset[dict[str, torch.Tensor]]):
    """Pictures, or parts of them, with a class, a colour and a box per cell of each grid that is read.

    `parts` says per source how many parts of each picture are shown, cut at random but always the same;
    None shows the whole picture.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[dict[str, Any]], Path]],
        processor: Any,
        grids: Sequence[int],
        parts: Sequence[int | None] = (),
    ) -> None:
        self.rows = [(row, pictures) for rows, pictures in sources for row in rows]
        if bare := next(
            (row for row, _ in self.rows if "objects" not in row or len(row_pictures(row)) != 1), None
        ):
            raise InputError(f"row {row_name(bare)}: patch labels need one picture and an 'objects' list")
        self.what = Names([row for row, _ in self.rows], "what")
        self.colour = Names([row for row, _ in self.rows], "colour")
        pixels = processor.image_processor
        self.views = pixels.views if hasattr(pixels, "views") else pixels.view
        self.grids = tuple(grids)
        self.shown: list[tuple[int, int | None]] = []
        start = 0
        for (rows, _), count in zip(sources, parts or [None] * len(sources), strict=True):
            numbers = range(start, start := start + len(rows))
            self.shown += [(row, part) for row in numbers for part in (range(count) if count else [None])]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        number, part = self.shown[position]
        row, pictures = self.rows[number]
        picture, objects = open_picture(pictures / row_pictures(row)[0]), row["objects"]
        if part is not None:
            window = pick_window(random.Random(f"{row_name(row)}/{part}"))
            picture, objects = cut_picture(picture, window), cut_objects(objects, window)
        sample = {"pixel_values": torch.as_tensor(self.views(picture))}
        for grid in self.grids:
            sample |= {f"{key}_{grid}": value for key, value in self.labels(objects, grid).items()}
        return sample

    def labels(self, objects: Sequence[dict[str, Any]], grid: int) -> dict[str, torch.Tensor]:
        """Per cell, row-major: class, colour (or NO_COLOUR), box edges from its centre, weight, middle.

        What a grid's cells are too coarse for, or what is cut off, is UNKNOWN there. The weights let a thing
        on many cells count for more than one on few, but not in proportion.
        """
        # NumPy: a picture has a dozen of these small steps, and torch takes five times as long for each.
        what = np.zeros((grid, grid), np.int64)
        colour = np.full((grid, grid), NO_COLOUR, np.int64)
        box, weight = np.zeros((grid, grid, 4), np.float32), np.ones((grid, grid), np.float32)
        middle = np.zeros((grid, grid), np.float32)
        twice = centres_twice(grid)
        centres = twice[0, :, 0]
        for thing in objects:  # later objects are drawn over earlier ones
            x1, y1, x2, y2 = thing["box"]
            inside = ((centres >= y1) & (centres <= y2))[:, None] & ((centres >= x1) & (centres <= x2))[None]
            known = thing.get("whole", True) and min(x2 - x1, y2 - y1) * grid >= LEAST_CELLS
            what[inside] = self.what[thing["what"]] if known else UNKNOWN
            colour[inside] = self.colour[thing["colour"]] if known and thing.get("colour") else NO_COLOUR
            box[inside] = np.array([x1, y1, x2, y2], np.float32) - twice[inside]
            weight[inside] = max(1, int(inside.sum())) ** -0.5
            middle[min(int((y1 + y2) / 2 * grid), grid - 1), min(int((x1 + x2) / 2 * grid), grid - 1)] = 1.0
        return {
            "what": torch.from_numpy(what).flatten(),
            "colour": torch.from_numpy(colour).flatten(),
            "box": torch.from_numpy(box).flatten(0, 1),
            "weight": torch.from_numpy(weight).flatten(),
            "middle": torch.from_numpy(middle).flatten(),
        }


Window = tuple[float, float, float, float]


def pick_window(rng: random.Random) -> Window:
    """A part of a picture, in fractions of its sides: a third to three quarters of each, mostly near half."""
    side, stretch = rng.triangular(0.33, 0.75, 0.5), rng.uniform(0.85, 1.18)
    across, down = min(side * stretch, 1.0), min(side / stretch, 1.0)
    left, top = rng.uniform(0, 1 - across), rng.uniform(0, 1 - down)
    return left, top, left + across, top + down


def cut_picture(picture: Image.Image, window: Window) -> Image.Image:
    """The window's pixels."""
    left, top, right, bottom = window
    width, height = picture.size
    return picture.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def cut_objects(objects: Sequence[dict[str, Any]], window: Window) -> list[dict[str, Any]]:
    """What is seen in the window, boxes as fractions of it; `whole` is False where too much is cut off."""
    left, top, right, bottom = window
    seen: list[dict[str, Any]] = []
    for thing in objects:
        x1, y1, x2, y2 = thing["box"]
        box = (max(x1, left), max(y1, top), min(x2, right), min(y2, bottom))
        if box[0] >= box[2] or box[1] >= box[3]:
            continue
        share = (box[2] - box[0]) * (box[3] - box[1]) / ((x2 - x1) * (y2 - y1))
        across, down = right - left, bottom - top
        inner = [
            (box[0] - left) / across,
            (box[1] - top) / down,
            (box[2] - left) / across,
            (box[3] - top) / down,
        ]
        seen.append({**thing, "box": inner, "whole": share >= LEAST_SEEN})
    return seen


def cell_centres(grid: int) -> torch.Tensor:
    """Where the cells' middles are, (grid, grid, xy), in fractions of the picture."""
    centres = (torch.arange(grid) + 0.5) / grid
    return torch.stack(torch.meshgrid(centres, centres, indexing="ij")[::-1], dim=-1)


@lru_cache(maxsize=16)
def centres_twice(grid: int) -> NDArray[np.float32]:
    """The middles twice, (grid, grid, xyxy), to be taken from a box's edges."""
    return cell_centres(grid).repeat(1, 1, 2).numpy()


class PatchCollator:
    """Stack the samples; `labels` is there because the Trainer looks for it."""

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
