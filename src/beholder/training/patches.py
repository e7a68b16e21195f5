"""Warm-up of a tower and projectors that start from nothing: every patch and slot says what it lies on.

A tower trained from random weights through a language model's few answer tokens learns slowly. Where the
pictures are drawn, each row can name its objects (`objects`: what, colour, box as fractions of the picture),
so each patch has a label, and so has each slot that a projector makes of patches. The reading heads live for
this stage only and never reach a checkpoint's model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from beholder.training.patch_labels import BACKGROUND, LABELS, NO_COLOUR, UNKNOWN, cell_centres


class ReadingHeads(nn.Module):
    """What lies in each cell, its colour, its box, and whether its middle is here: linear over the features.

    `cells` is how many cells a feature answers for: a slot made of 2 × 2 patches names four. Boxes are told
    from the cell's own centre, or, `placed`, from the picture's corner: slots must say where they are.
    """

    def __init__(self, width: int, whats: int, colours: int, cells: int = 1, *, placed: bool = False) -> None:
        super().__init__()
        self.norm, self.cells, self.placed = nn.LayerNorm(width), cells, placed
        self.what, self.colour = nn.Linear(width, whats * cells), nn.Linear(width, colours * cells)
        self.box, self.middle = nn.Linear(width, 4 * cells), nn.Linear(width, cells)

    def spread(self, answers: torch.Tensor) -> torch.Tensor:
        """(B, places, cells x n) -> (B, places x cells, n), in the row-major order of the finer grid."""
        side, fine = math.isqrt(answers.shape[1]), math.isqrt(self.cells)
        answers = answers.float().unflatten(1, (side, side)).unflatten(-1, (fine, fine, -1))
        return answers.permute(0, 1, 3, 2, 4, 5).flatten(1, 4)

    def forward(
        self,
        features: torch.Tensor,
        what: torch.Tensor,
        colour: torch.Tensor,
        box: torch.Tensor,
        weight: torch.Tensor,
        middle: torch.Tensor,
    ) -> torch.Tensor:
        """(B, places, width) -> loss: is there a thing, what, in which colour and box, is it the middle.

        What and colour count where there is an object only: most places are background, and a mean over all
        of them hides that shapes and letters are not told apart.
        """
        features = self.norm(features)
        known, is_object, coloured = what != UNKNOWN, what > BACKGROUND, colour != NO_COLOUR
        named, coloured_as = self.spread(self.what(features)), self.spread(self.colour(features))
        is_empty = functional.binary_cross_entropy_with_logits(
            named[..., 0][known], (what == BACKGROUND).float()[known]
        )
        kind = mean_loss(named[is_object][:, 1:], what[is_object] - 1, weight[is_object])
        shade = mean_loss(coloured_as[coloured], colour[coloured], weight[coloured])
        distance = (self.spread(self.box(features)) - self.target(box)).abs().sum(-1) * is_object
        is_middle = functional.binary_cross_entropy_with_logits(
            self.spread(self.middle(features))[..., 0], middle
        )
        place = distance.sum() / is_object.sum().clamp(min=1)
        return 0.5 * is_empty + kind + 0.5 * shade + 2.0 * place + is_middle

    def target(self, box: torch.Tensor) -> torch.Tensor:
        """The boxes as these heads tell them, (B, cells, 4)."""
        if not self.placed:
            return box
        side = math.isqrt(box.shape[1])
        return box + cell_centres(side).flatten(0, 1).repeat(1, 2).to(box)


def mean_loss(logits: torch.Tensor, numbers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of cross-entropies; zero, and not NaN, where there is nothing to tell."""
    losses = functional.cross_entropy(logits, numbers, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


class TowerReader(nn.Module):
    """A vision tower that looks at a picture as a whole, with reading heads over its patches."""

    around = "model."  # what stands before the model's own names here

    def __init__(self, model: Any, whats: int, colours: int) -> None:
        super().__init__()
        self.model = model
        self.patches = ReadingHeads(model.config.vision_config.hidden_size, whats, colours)

    @staticmethod
    def grids(model: Any) -> tuple[int, ...]:
        """The side of the only grid: as many patches as a side of the picture has."""
        tower = model.config.vision_config
        return (side_of(tower.image_size) // side_of(tower.patch_size),)

    def forward(self, pixel_values: torch.Tensor, **labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of the patches; `labels` holds those of `LABELS` at the grid's side G, as `what_G`."""
        (grid,) = self.grids(self.model)
        features = self.model.model.get_image_features(pixel_values).last_hidden_state
        features = features[:, features.shape[1] - grid * grid :]  # a class token stands before the patches
        return {"loss": self.patches(features, *(labels[f"{key}_{grid}"] for key in LABELS))}


def side_of(size: Any) -> int:
    """A side in pixels, which some configurations give as height and width."""
    return int(size if isinstance(size, int) else size[0])


class PatchReader(nn.Module):
    """A vision tower with reading heads over its patches, and over the projectors' slots if those train."""

    around = "model."

    def __init__(self, model: Any, whats: int, colours: int) -> None:
        super().__init__()
        self.model = model
        self.patches = ReadingHeads(model.config.vision_config.hidden_size, whats, colours)
        projectors = (model.model.corner_abstractor, model.model.whole_abstractor)
        trains = any(parameter.requires_grad for part in projectors for parameter in part.parameters())
        width = model.config.text_config.hidden_size
        # A corner slot stands for 2 x 2 patches of fine detail, so it must keep what each of them says.
        self.corner_slots = ReadingHeads(width, whats, colours, cells=4, placed=True) if trains else None
        self.whole_slots = ReadingHeads(width, whats, colours, placed=True) if trains else None

    @staticmethod
    def grids(model: Any) -> tuple[int, ...]:
        """Sides of all grids that are read: the stitched corners', the whole view's, the slots'."""
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        slots = model.model.whole_abstractor.query_side
        return tuple(dict.fromkeys((2 * side, side, 2 * slots, slots)))

    def forward(self, pixel_values: torch.Tensor, **labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean loss over all maps; `labels` holds those of `LABELS` per grid side G, as `what_G`."""
        corners, whole = self.model.model.patch_maps(pixel_values)
        maps = [(self.patches, corners), (self.patches, whole)]
        if self.corner_slots is not None and self.whole_slots is not None:
            maps += [
                (self.corner_slots, self.model.model.corner_abstractor(corners)),
                (self.whole_slots, self.model.model.whole_abstractor(whole)),
            ]
        losses = []
        for heads, features in maps:
            grid = math.isqrt(features.shape[1] * heads.cells)
            answers = (labels[f"{key}_{grid}"] for key in LABELS)
            losses.append(heads(features, *answers))
        return {"loss": torch.stack(losses).mean()}


def reader_of(model: Any) -> type[PatchReader] | type[TowerReader]:
    """The reader for a model's kind of tower: of several views that become one map, or of one."""
    return PatchReader if hasattr(model.model, "patch_maps") else TowerReader
