"""A picture as LLaVA's tower sees it: padded to a square, cut to a square, or cut into tiles.

Reproduces process_images of llava/mm_utils.py (haotian-liu/LLaVA, c121f04) and CLIP's image processor bit for
bit; InternVL-Chat differs in the mean and the spread of its pixels alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from beholder.core.errors import ConfigError
from beholder.families.llava.tiles import Size, best_resolution
from beholder.grounding.boxes import Frame
from beholder.processing.images import (
    centre_crop,
    flat_pictures,
    normalise,
    open_pictures,
)
from beholder.processing.resizing import resize, resize_on_square, resize_shortest_edge

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LlavaImageProcessor(BaseImageProcessor):
    """Pictures to `pixel_values` (pictures, 3, side, side).

    `aspect` is "pad", anything with "anyres" in it, or anything else (None, "square": borders are cut off).
    Tiles are (pictures, tiles, 3, side, side) with `image_sizes` (pictures, 2), heights first.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  (transformers' own way)

    def __init__(
        self,
        side: int = 336,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        aspect: str | None = "pad",
        grid_pinpoints: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        self.side = side
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.aspect = aspect
        self.grid_pinpoints = [list(choice) for choice in grid_pinpoints] if grid_pinpoints else None
        if self.cuts_tiles and not self.grid_pinpoints:
            raise ConfigError(
                f"pictures are shown as {aspect!r} and there are no grid_pinpoints to choose from"
            )

    @property
    def cuts_tiles(self) -> bool:
        """Whether a picture is shown as several tiles."""
        return "anyres" in (self.aspect or "")

    @classmethod
    def from_model_config(cls, config: Any) -> LlavaImageProcessor:
        """The views that a checkpoint's configuration asks for."""
        is_intern = config.vision_config.model_type == "internvl_vision"
        return cls(
            side=config.picture_side,
            image_mean=IMAGENET_MEAN if is_intern else CLIP_MEAN,
            image_std=IMAGENET_STD if is_intern else CLIP_STD,
            aspect=config.image_aspect_ratio,
            grid_pinpoints=config.image_grid_pinpoints if config.cuts_tiles else None,
        )

    def view(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB picture as (3, side, side)."""
        if self.aspect == "pad":
            red, green, blue = (int(255 * mean) for mean in self.image_mean)
            square = resize_on_square(image, (red, green, blue), self.side)
            return normalise(square, self.image_mean, self.image_std)
        return self._processed(image)

    def tiles(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB picture as (1 + tiles, 3, side, side): the whole, squeezed to a square, then row by row."""
        target = best_resolution(image.size, self.grid_pinpoints or ())
        canvas = Image.new("RGB", target, (0, 0, 0))
        fitted = resize(image, _fitted(image.size, target))
        canvas.paste(fitted, ((target[0] - fitted.width) // 2, (target[1] - fitted.height) // 2))
        side = self.side
        corners = [(x, y) for y in range(0, target[1], side) for x in range(0, target[0], side)]
        parts = [canvas.crop((x, y, x + side, y + side)) for x, y in corners]
        return np.stack([self._processed(part) for part in (resize(image, (side, side)), *parts)])

    def _processed(self, image: Image.Image) -> NDArray[np.float32]:
        cropped = centre_crop(resize_shortest_edge(image, self.side), self.side)
        return normalise(cropped, self.image_mean, self.image_std)

    def box_frame(self, width: int, height: int) -> Frame:
        """What the fractions of an answered box refer to: what the tower saw of the picture."""
        if self.aspect == "pad":
            return Frame.padded_square(width, height)
        if self.cuts_tiles:
            return Frame.picture(width, height)
        side = min(width, height)
        return Frame((width - side) / 2, (height - side) / 2, side, side)

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """One picture or nested lists of them, in any form that `open_picture` takes."""
        if kwargs:
            raise ConfigError(f"unknown settings for pictures: {', '.join(sorted(kwargs))}")
        inputs = self.inputs(open_pictures(flat_pictures(images)))
        data = {name: value.numpy() for name, value in inputs.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def inputs(self, pictures: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """What the model takes of opened pictures."""
        if not self.cuts_tiles:
            return {"pixel_values": self.stack(pictures)}
        cut = [torch.from_numpy(self.tiles(picture)) for picture in pictures]
        most = max(len(tiles) for tiles in cut)
        pixels = cut[0].new_zeros((len(cut), most, *cut[0].shape[1:]))
        for row, tiles in zip(pixels, cut, strict=True):
            row[: len(tiles)] = tiles
        sizes = [(picture.height, picture.width) for picture in pictures]
        return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}

    def stack(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The views of opened pictures as one tensor."""
        return torch.from_numpy(np.stack([self.view(picture) for picture in pictures]))


def _fitted(size: Size, target: Size) -> Size:
    """The largest size of the same shape within the target; the free side is rounded up."""
    width, height = size
    across, down = target[0] / width, target[1] / height
    if across < down:
        return target[0], min(math.ceil(height * across), target[1])
    return min(math.ceil(width * down), target[0]), target[1]
