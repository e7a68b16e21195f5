"""LLaVA's configuration: transformers' own, with what the published checkpoints say besides.

A model whose projector is the two-layer one is a plain `llava` model for transformers, and its files open
there without this package. Any other projector, or pictures cut into tiles, is something that transformers'
class of that name cannot compute; those are saved under a model type of their own, so that nothing opens them
as what they are not. How the published `config.json` becomes this class, and back, is in `published.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import LlavaConfig

from beholder.core.errors import ConfigError
from beholder.families.llava import published
from beholder.families.llava.projector import STANDARD, check_name

OWN_MODEL_TYPE = "beholder_llava"
MERGES = ("flat", "spatial", "spatial_unpad")
MOST_UNUSED_ROWS = 64


class BeholderLlavaConfig(LlavaConfig):
    """A LLaVA model: tower, projector, language model, and how pictures are cut and merged."""

    model_type = "llava"
    if TYPE_CHECKING:  # transformers also names what may be given for them; made, they are configurations
        vision_config: Any = None
        text_config: Any = None

    projector_type: str = STANDARD
    published_vocab_size: int | None = None  # rows in use; those after them are filling and never generated
    image_aspect_ratio: str | None = "pad"
    input_size: int | None = None  # side of the picture in pixels; None: what the tower was made for
    patch_merge_type: str = "flat"
    image_grid_pinpoints: Any = None  # (width, height) pairs, as in the published files
    has_newline: bool = False  # whether there is a learned vector for the end of a row of patches
    base_vision_tower: str | None = None  # where the tower comes from if the checkpoint does not hold it
    use_start_end: bool = False  # whether <im_start> and <im_end> stand around a picture
    use_patch_token: bool = False
    template: str | None = None
    longest_sequence: int | None = None  # tokenizer_model_max_length of the published file

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_name(self.projector_type)
        if self.patch_merge_type not in MERGES:
            raise ConfigError(
                f"the tiles of a picture are merged by {self.patch_merge_type!r}; known: {', '.join(MERGES)}"
            )
        if self.published_vocab_size is None:
            rows, first_free = self.text_config.vocab_size, self.image_token_index
            if 0 < rows - first_free <= MOST_UNUSED_ROWS:
                self.published_vocab_size = first_free
        if self.image_grid_pinpoints is not None:
            self.image_grid_pinpoints = published.pinpoints(self.image_grid_pinpoints)

    @property
    def used_rows(self) -> int:
        """How many rows of the vocabulary stand for something that may be generated."""
        return self.published_vocab_size or self.text_config.vocab_size

    @property
    def cuts_tiles(self) -> bool:
        """Whether a picture is shown as several tiles."""
        return "anyres" in (self.image_aspect_ratio or "")

    @property
    def is_plain(self) -> bool:
        """Whether transformers' own class computes this model."""
        return self.projector_type == STANDARD and not self.cuts_tiles and not self.has_newline

    @property
    def picture_side(self) -> int:
        """Side of the square that the tower is shown, in pixels."""
        if self.input_size is not None:
            return self.input_size
        side = self.vision_config.image_size
        return side[0] if isinstance(side, (list, tuple)) else side

    @property
    def patch_side(self) -> int:
        """Side of a patch in pixels."""
        side = self.vision_config.patch_size
        return side[0] if isinstance(side, (list, tuple)) else side

    @property
    def tile_slots(self) -> int:
        """How many features one view of the tower gives."""
        patches = (self.picture_side // self.patch_side) ** 2
        return patches + (self.vision_feature_select_strategy == "full")

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, under the model type that says who can compute the model."""
        told = super().to_dict()
        told["model_type"] = "llava" if self.is_plain else OWN_MODEL_TYPE
        told["image_seq_length"] = self.tile_slots
        return told

    def to_published(self) -> dict[str, Any]:
        """The published `config.json` of this model."""
        return published.from_ours(self)

    @classmethod
    def from_published(
        cls, config: dict[str, Any], folder: str | os.PathLike[str] | None = None
    ) -> BeholderLlavaConfig:
        """From a published `config.json`; `folder` is where its relative paths start and its tensors are."""
        return cls(**published.to_ours(config, None if folder is None else Path(folder)))

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads `config.json`; a published one is translated here, where its folder is known."""
        config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if published.is_published(config):
            place = Path(pretrained_model_name_or_path)
            config = published.to_ours(config, place.parent if place.is_file() else place)
        return config, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From our own form, llava-hf's or the published one; the Auto classes read the file first.

        What only transformers' own class of that model type computes stays a configuration of it.
        """
        if published.has_other_parts(config_dict):
            return LlavaConfig.from_dict(config_dict, **kwargs)
        if published.is_published(config_dict):
            folder = kwargs.get("name_or_path")
            config_dict = published.to_ours(config_dict, Path(folder) if folder else None)
        return super().from_dict({**config_dict, "model_type": cls.model_type}, **kwargs)


class PublishedLlavaConfig(BeholderLlavaConfig):
    """The later published model type, for the Auto classes only: opening it gives a `BeholderLlavaConfig`."""

    model_type = "llava_llama"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A `BeholderLlavaConfig`."""
        return BeholderLlavaConfig.from_dict(config_dict, **kwargs)


class OwnLlavaConfig(PublishedLlavaConfig):
    """Our model type, for the Auto classes only: opening it gives a `BeholderLlavaConfig`."""

    model_type = OWN_MODEL_TYPE
