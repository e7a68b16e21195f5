"""Warm-up of a tower and projectors that start from nothing: every patch and slot says what it lies on.

A tower trained from random weights through a language model's few answer tokens learns slowly. Where the
pictures are drawn, each row can name its objects (`objects`: what, colour, box as fractions of the picture),
so each patch has a label, and so has each slot that a projector makes of patches. The reading heads live for
this stage only and never reach a checkpoint's model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from beholder.core.errors import InputError
from beholder.processing.images import open_picture
from beholder.training.data import row_name, row_pictures

BACKGROUND = 0
NO_COLOUR = -100


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
    """Pictures with a class, a colour and a box per patch of each grid that the tower's views form."""

    def __init__(
        self, sources: Sequence[tuple[list[dict[str, Any]], Path]], processor: Any, grids: Sequence[int]
    ) -> None:
        self.rows = [(row, pictures) for rows, pictures in sources for row in rows]
        if bare := next(
            (row for row, _ in self.rows if "objects" not in row or len(row_pictures(row)) != 1), None
        ):
            raise InputError(f"row {row_name(bare)}: patch labels need one picture and an 'objects' list")
        self.what = Names([row for row, _ in self.rows], "what")
        self.colour = Names([row for row, _ in self.rows], "colour")
        self.views, self.grids = processor.image_processor.views, tuple(grids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        row, pictures = self.rows[position]
        pixels = torch.as_tensor(self.views(open_picture(pictures / row_pictures(row)[0])))
        sample = {"pixel_values": pixels}
        for grid in self.grids:
            sample |= {f"{key}_{grid}": value for key, value in self.labels(row["objects"], grid).items()}
        return sample

    def labels(self, objects: Sequence[dict[str, Any]], grid: int) -> dict[str, torch.Tensor]:
        """Per patch, row-major: class, colour (or NO_COLOUR), box edges relative to the patch's centre."""
        what = torch.zeros(grid, grid, dtype=torch.long)
        colour = torch.full((grid, grid), NO_COLOUR)
        box = torch.zeros(grid, grid, 4)
        centres = (torch.arange(grid) + 0.5) / grid
        centre_grid = torch.stack(
            torch.meshgrid(centres, centres, indexing="ij")[::-1], dim=-1
        )  # (grid, grid, xy)
        for thing in objects:  # later objects are drawn over earlier ones
            x1, y1, x2, y2 = thing["box"]
            inside = ((centres >= y1) & (centres <= y2))[:, None] & ((centres >= x1) & (centres <= x2))[None]
            what[inside] = self.what[thing["what"]]
            colour[inside] = self.colour[thing["colour"]] if thing.get("colour") else NO_COLOUR
            box[inside] = torch.tensor([x1, y1, x2, y2]) - centre_grid[inside].repeat(1, 2)
        return {"what": what.flatten(), "colour": colour.flatten(), "box": box.flatten(0, 1)}


class PatchCollator:
    """Stack the samples; `labels` is there because the Trainer looks for it."""

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


class ReadingHeads(nn.Module):
    """What lies here, its colour, and where its box ends: one linear layer each over normalised features."""

    def __init__(self, width: int, whats: int, colours: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.what, self.colour = nn.Linear(width, whats), nn.Linear(width, colours)
        self.box = nn.Linear(width, 4)

    def forward(
        self, features: torch.Tensor, what: torch.Tensor, colour: torch.Tensor, box: torch.Tensor
    ) -> torch.Tensor:
        """(B, places, width) -> loss of four answers: is anything here, what, in which colour, between what.

        What and colour count where there is an object only: most places are background, and a mean over all
        of them hides that shapes and letters are not told apart.
        """
        features = self.norm(features)
        on_object = what != BACKGROUND
        coloured = colour != NO_COLOUR
        named, coloured_as = self.what(features).float(), self.colour(features).float()
        is_empty = functional.binary_cross_entropy_with_logits(named[..., 0], (~on_object).float())
        kind = mean_loss(named[on_object][:, 1:], what[on_object] - 1)
        shade = mean_loss(coloured_as[coloured], colour[coloured])
        distance = (self.box(features).float() - box).abs().sum(-1) * on_object
        return 0.5 * is_empty + kind + 0.5 * shade + 2.0 * distance.sum() / on_object.sum().clamp(min=1)


def mean_loss(logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy; zero, and not NaN, where there is nothing to tell."""
    return functional.cross_entropy(logits, numbers, reduction="sum") / max(1, len(numbers))


class PatchReader(nn.Module):
    """A vision tower with reading heads over its patches, and over the projectors' slots if those train."""

    def __init__(self, model: Any, whats: int, colours: int) -> None:
        super().__init__()
        self.model = model
        self.patches = ReadingHeads(model.config.vision_config.hidden_size, whats, colours)
        projectors = (model.model.corner_abstractor, model.model.whole_abstractor)
        trains = any(parameter.requires_grad for part in projectors for parameter in part.parameters())
        width = model.config.text_config.hidden_size
        self.slots = ReadingHeads(width, whats, colours) if trains else None

    @staticmethod
    def grids(model: Any) -> tuple[int, ...]:
        """Sides of all maps that are read: the stitched corners', the whole view's, the slots'."""
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        return tuple(dict.fromkeys((2 * side, side, model.model.whole_abstractor.query_side)))

    def forward(self, pixel_values: torch.Tensor, **labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean loss over all maps; `labels` holds `what_G`, `colour_G`, `box_G` per grid side G."""
        corners, whole = self.model.model.patch_maps(pixel_values)
        maps = [(self.patches, corners), (self.patches, whole)]
        if self.slots is not None:
            maps += [
                (self.slots, self.model.model.corner_abstractor(corners)),
                (self.slots, self.model.model.whole_abstractor(whole)),
            ]
        losses = []
        for heads, features in maps:
            grid = math.isqrt(features.shape[1])
            losses.append(heads(features, *(labels[f"{key}_{grid}"] for key in ("what", "colour", "box"))))
        return {"loss": torch.stack(losses).mean()}
