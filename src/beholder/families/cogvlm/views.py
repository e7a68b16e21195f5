"""A picture as CogVLM's tower sees it: stretched to a square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from beholder.core.errors import ConfigError, InputError
from beholder.grounding.boxes import Frame
from beholder.processing.images import flat_pictures, normalise, open_pictures
from beholder.processing.resizing import resize

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class CogVLMImageProcessor(BaseImageProcessor):
    """Pictures to `pixel_values` (pictures, 3, side, side).

    Reproduces the transform of utils/vision.py (THUDM/CogVLM, 8bd8be9): Pillow's bicubic filter on 8 bits.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  (transformers' own way)

    def __init__(
        self,
        side: int = 490,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        self.side = side
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)

    @classmethod
    def from_model_config(cls, config: Any) -> CogVLMImageProcessor:
        """The view that a checkpoint's configuration asks for."""
        return cls(side=config.vision_config.image_size)

    def view(self, image: Image.Image) -> NDArray[np.float32]:
        """(3, side, side) of one picture; what is not RGB is converted, transparency dropped as it was."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return normalise(resize(rgb, (self.side, self.side)), self.image_mean, self.image_std)

    def box_frame(self, width: int, height: int) -> Frame:
        """What the fractions of an answered box refer to: the picture itself."""
        return Frame.picture(width, height)

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """One picture or nested lists of them, in any form that `open_picture` takes, as `pixel_values`."""
        if kwargs:
            raise ConfigError(f"unknown settings for pictures: {', '.join(sorted(kwargs))}")
        views = [self.view(picture) for picture in open_pictures(flat_pictures(images))]
        if not views:
            raise InputError("there is no picture to prepare")
        return BatchFeature({"pixel_values": np.stack(views)}, tensor_type=return_tensors)

    def stack(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Opened pictures as one tensor."""
        return torch.from_numpy(np.stack([self.view(picture) for picture in pictures]))
