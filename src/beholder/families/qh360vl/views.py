"""A picture as 360VL's tower sees it: four corners and the whole, or the whole alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from beholder.core.errors import ConfigError
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


class QH360VLImageProcessor(BaseImageProcessor):
    """Pictures to `pixel_values`: (pictures, 5, 3, side, side), or (pictures, 3, side, side) for one view.

    `aspect` is "pad" (pad to a square first) or anything else (five views stretch, a single one is cropped).
    Reproduces process_images_slid_window and process_images of qh360_vl/mm_utils.py (360CVGroup/360VL,
    ad6a11c) bit for bit.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  (transformers' own way)

    def __init__(
        self,
        side: int = 336,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        aspect: str = "pad",
        plan: Literal["five", "single"] = "five",
        **kwargs: Any,
    ) -> None:
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        if plan not in ("five", "single"):
            raise ConfigError(f"the plan of views is {plan!r}; it must be five or single")
        self.side = side
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.aspect = aspect
        self.plan = plan

    @classmethod
    def from_model_config(cls, config: Any) -> QH360VLImageProcessor:
        """The views that a checkpoint's configuration asks for."""
        return cls(
            side=config.vision_config.image_size,
            aspect=config.image_aspect_ratio,
            plan="single" if config.views == "single" else "five",
        )

    def views(self, image: Image.Image) -> NDArray[np.float32]:
        """The views of one RGB picture: top left, top right, bottom left, bottom right, whole."""
        if self.plan == "five":
            return self._five_views(self._square(image, 2 * self.side))
        if self.aspect == "pad":
            return normalise(self._square(image, self.side), self.image_mean, self.image_std)
        cropped = centre_crop(resize_shortest_edge(image, self.side), self.side)
        return normalise(cropped, self.image_mean, self.image_std)

    def _square(self, image: Image.Image, side: int) -> Image.Image:
        """All of a picture as a square, padded or stretched."""
        if self.aspect == "pad":
            return resize_on_square(image, self._padding_colour(), side)
        return resize(image, (side, side))

    def _padding_colour(self) -> tuple[int, int, int]:
        red, green, blue = (int(255 * mean) for mean in self.image_mean)
        return red, green, blue

    def _five_views(self, big: Image.Image) -> NDArray[np.float32]:
        """The whole view is made from the enlarged copy, resampled twice. Kept: released weights saw it."""
        side = self.side
        pixels = np.asarray(big)
        out = np.empty((5, 3, side, side), np.float32)
        for corner in range(4):
            top, left = side * (corner // 2), side * (corner % 2)
            square = pixels[top : top + side, left : left + side]
            normalise(square, self.image_mean, self.image_std, out[corner])
        normalise(resize(big, (side, side)), self.image_mean, self.image_std, out[4])
        return out

    def box_frame(self, width: int, height: int) -> Frame:
        """What the fractions of an answered box refer to: the padded square, or the picture itself."""
        return Frame.padded_square(width, height) if self.aspect == "pad" else Frame.picture(width, height)

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """One picture or nested lists of them, in any form that `open_picture` takes, as `pixel_values`."""
        if kwargs:
            raise ConfigError(f"unknown settings for pictures: {', '.join(sorted(kwargs))}")
        views = [self.views(picture) for picture in open_pictures(flat_pictures(images))]
        return BatchFeature({"pixel_values": np.stack(views)}, tensor_type=return_tensors)

    def stack(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The views of opened pictures as one tensor."""
        return torch.from_numpy(np.stack([self.views(picture) for picture in pictures]))
