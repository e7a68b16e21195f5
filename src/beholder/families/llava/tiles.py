"""Pictures cut into tiles, as LLaVA-1.6 does: which grid a picture gets, and how its tiles become one row.

Follows select_best_resolution and process_anyres_image of llava/mm_utils.py and the merging in
llava/model/llava_arch.py (haotian-liu/LLaVA, c121f04). transformers' own functions round differently where a
product falls on a whole number, so they are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]  # width, height


def best_resolution(size: Size, choices: Sequence[Sequence[int]]) -> Size:
    """The choice that keeps most of the picture's pixels; among equals the one that wastes least."""
    width, height = size

    def merit(choice: Sequence[int]) -> tuple[int, int]:
        scale = min(choice[0] / width, choice[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - choice[0] * choice[1]

    best = max(choices, key=merit)  # the first of several
    return best[0], best[1]


def tile_grid(size: Size, config: Any) -> Size:
    """How many columns and rows of tiles a picture of this size is cut to."""
    choices = config.image_grid_pinpoints
    if not choices:
        raise ConfigError("pictures are to be cut into tiles and config.json has no image_grid_pinpoints")
    width, height = best_resolution(size, choices)
    side = config.picture_side
    return width // side, height // side


def unpadded(columns: int, rows: int, size: Size) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part of a (columns, rows) grid that shows the picture itself."""
    width, height = size
    if width / height > columns / rows:
        border = (rows - int(height * (columns / width))) // 2
        return 0, border, columns, rows - border
    border = (columns - int(width * (rows / height))) // 2
    return border, 0, columns - border, rows


def slots_of(size: Size, config: Any) -> int:
    """How many positions of the prompt the tiles of a picture take."""
    columns, rows = tile_grid(size, config)
    side, merge = config.picture_side // config.patch_side, config.patch_merge_type
    if merge != "spatial_unpad":
        return (1 + columns * rows) * config.tile_slots
    left, top, right, bottom = unpadded(columns * side, rows * side, size)
    return config.tile_slots + (right - left + 1) * (bottom - top)


def merge_tiles(views: Tensor, grid: Size, size: Size, merge: str, newline: Tensor | None) -> Tensor:
    """(1 + tiles, L, D) features, the whole picture first, as one (slots, D) row.

    `flat` puts the tiles one after another; `spatial` reads them as one large grid, row by row;
    `spatial_unpad` also leaves the border out and ends every row of the grid with `newline`.
    """
    import torch

    if merge == "flat":
        return views.flatten(0, 1)
    columns, rows = grid
    side = round((views.shape[1]) ** 0.5)
    if side * side != views.shape[1]:
        raise ConfigError(
            f"{views.shape[1]} features per tile are no square grid; {merge} needs patches alone"
        )
    tiles = views[1:].unflatten(0, (rows, columns)).unflatten(2, (side, side))
    large = tiles.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)  # rows, columns, D
    if merge == "spatial_unpad":
        if newline is None:
            raise ConfigError("spatial_unpad needs the learned model.image_newline, and this model has none")
        left, top, right, bottom = unpadded(columns * side, rows * side, size)
        large = large[top:bottom, left:right]
        ends = newline.to(large.dtype).expand(len(large), 1, -1)
        large = torch.cat([large, ends], dim=1)
    return torch.cat([views[0], large.flatten(0, 1)])
