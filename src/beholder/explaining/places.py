"""Which part of a picture each of its slots comes from, family by family.

A slot is a position of the prompt that holds picture features. Its place is told in cells: the patches of
the views that the tower saw. What the tower itself mixes is not undone: there every patch saw all others.
Shape letters: N slots of a picture, L cells of all its views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from beholder.core.errors import InputError
from beholder.grounding.boxes import Frame

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class View:
    """One view of a picture, (rows, columns) cells, and what it shows in pixels of the original picture."""

    name: str
    rows: int
    columns: int
    frame: Frame

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Places:
    """The views of one picture and, (N, L), how a slot's weight spreads over their cells.

    A row sums to one; or to nothing, where a slot comes from no place, as the markers around a picture. Cells
    are counted view by view and row by row. `notes` say what is approximate, in sentences for people.
    """

    views: tuple[View, ...]
    spread_NL: Tensor
    notes: tuple[str, ...]


def places(family: str, config: Any, processor: Any, picture: Image) -> Places:
    """Where the slots of a picture come from; InputError for a family of which that is not known here."""
    if family not in FAMILIES:
        raise InputError(
            f"where a model of this kind looks cannot be shown; it can for {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[family](config, processor, picture)


def pooled(side: int, queries: int) -> Tensor:
    """(queries², side²): which cells of a square map each cell of an adaptive average pooling comes from.

    Its windows are those of torch's AdaptiveAvgPool2d; where the sides do not divide they overlap.
    """
    line = torch.zeros(queries, side)
    for index in range(queries):
        start, end = index * side // queries, math.ceil((index + 1) * side / queries)
        line[index, start:end] = 1 / (end - start)
    return torch.einsum("ir,jc->ijrc", line, line).reshape(queries * queries, side * side)


def _qh360vl(config: Any, processor: Any, picture: Image) -> Places:
    """Windows of the pooling between the C-Abstractor's two stages; its convolutions reach beyond them."""
    projector, tower = config.projector_config, config.vision_config
    side, queries = tower.image_size // tower.patch_size, math.isqrt(projector.queries)
    images = processor.image_processor
    shown = images.box_frame(*picture.size)
    if images.plan == "single":
        frame = shown if images.aspect == "pad" else _middle_square(picture.size)
        views: list[View] = [View("whole", side, side, frame)]
        parts = [(pooled(side, queries), range(side * side))]
    else:
        quarters = [_part(shown, 2, 2, row, column) for row in (0, 1) for column in (0, 1)]
        names = ("top left", "top right", "bottom left", "bottom right")
        views = [View(name, side, side, frame) for name, frame in zip(names, quarters, strict=True)]
        views.append(View("whole", side, side, shown))
        cells = side * side
        whole = (pooled(side, queries), range(4 * cells, 5 * cells))
        if config.views == "corners":
            parts = [(pooled(2 * side, queries), _stitched(side)), whole]
        else:
            corners = [(pooled(side, queries), range(k * cells, (k + 1) * cells)) for k in range(4)]
            parts = [*corners, whole]
    spread = _assembled(parts, sum(view.cells for view in views), projector.eos_tokens)
    reach = projector.depth * (2 * side // queries if config.views == "corners" else side // queries)
    return Places(tuple(views), spread, (_ABSTRACTOR.format(reach=projector.depth + max(1, reach)),))


_ABSTRACTOR = (
    "A slot of this family is no patch. It is drawn at the patches that its pooling window averages; the "
    "3 x 3 convolutions before and after reach up to {reach} patches further, and a gate in every block sees "
    "the whole map, so the edges of a spot are approximate."
)


def _stitched(side: int) -> list[int]:
    """Row by row over four corners side by side: the number of each cell, counted corner by corner."""
    return [
        (2 * (row // side) + column // side) * side * side + (row % side) * side + column % side
        for row in range(2 * side)
        for column in range(2 * side)
    ]


def _assembled(parts: Sequence[tuple[Tensor, Sequence[int]]], cells: int, without_place: int) -> Tensor:
    """Slots of several maps one after another; each map is followed by slots that come from no place."""
    rows: list[Tensor] = []
    for spread, where in parts:
        block = torch.zeros(len(spread) + without_place, cells)
        block[: len(spread), list(where)] = spread
        rows.append(block)
    return torch.cat(rows)


def _llava(config: Any, processor: Any, picture: Image) -> Places:
    """A slot is a patch, except the class token and the ends of lines, which come from no place."""
    images = processor.image_processor
    side = config.picture_side // config.patch_side
    has_class = config.vision_feature_select_strategy == "full"
    if not images.cuts_tiles:
        view = View("the picture", side, side, images.box_frame(*picture.size))
        return Places((view,), _with_class(side * side, has_class), _PATCHES)
    return _tiles(config, images, side, has_class, picture)


_PATCHES = ("A slot of this family is one patch of the view.",)


def _with_class(cells: int, has_class: bool) -> Tensor:
    return torch.cat([torch.zeros(int(has_class), cells), torch.eye(cells)])


def _tiles(config: Any, images: Any, side: int, has_class: bool, picture: Image) -> Places:
    """The whole picture squeezed to a square, then tiles of a canvas on which it stands in the middle."""
    from beholder.families.llava.tiles import best_resolution, merge_tiles

    columns, rows = (
        size // images.side for size in best_resolution(picture.size, images.grid_pinpoints or ())
    )
    scale = min(columns * images.side / picture.width, rows * images.side / picture.height)
    width, height = columns * images.side / scale, rows * images.side / scale
    canvas = Frame((picture.width - width) / 2, (picture.height - height) / 2, width, height)
    views = [View("whole", side, side, Frame.picture(*picture.size))]
    for row in range(rows):
        for column in range(columns):
            name = f"row {row + 1}, column {column + 1}"
            views.append(View(name, side, side, _part(canvas, columns, rows, row, column)))
    cells = side * side
    # Features are merged by the model's own rule; merged are here the cells' one-hot rows, view by view.
    one_hot = torch.eye(len(views) * cells).reshape(len(views), cells, -1)
    if has_class:
        one_hot = torch.cat([one_hot.new_zeros(len(views), 1, one_hot.shape[2]), one_hot], dim=1)
    newline = torch.zeros(one_hot.shape[2])
    spread = merge_tiles(one_hot, (columns, rows), picture.size, config.patch_merge_type, newline)
    return Places(tuple(views), spread, _PATCHES)


def _cogvlm(config: Any, processor: Any, picture: Image) -> Places:
    """A slot is a patch of the picture stretched to a square; the first and the last are learned markers."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    view = View("the picture", side, side, Frame.picture(*picture.size))
    marker = torch.zeros(1, side * side)
    spread = torch.cat([marker, torch.eye(side * side), marker])
    return Places(
        (view,), spread, (*_PATCHES, "Its two markers, before and after the patches, have no place.")
    )


def _part(frame: Frame, columns: int, rows: int, row: int, column: int) -> Frame:
    """One cell of a frame that is cut into columns and rows."""
    width, height = frame.width / columns, frame.height / rows
    return Frame(frame.left + column * width, frame.top + row * height, width, height)


def _middle_square(size: tuple[int, int]) -> Frame:
    side = min(size)
    return Frame((size[0] - side) / 2, (size[1] - side) / 2, side, side)


FAMILIES: dict[str, Callable[[Any, Any, Any], Places]] = {
    "qh360vl": _qh360vl,
    "llava": _llava,
    "internvl_chat": _llava,
    "cogvlm": _cogvlm,
}
