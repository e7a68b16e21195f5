"""360VL's configuration: CLIP's tower, the C-Abstractor and Llama in one class of ours.

How the published `config.json` becomes this class, and back, is in `published.py`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from beholder.core.errors import ConfigError
from beholder.families.qh360vl import published

# How a picture becomes slots: four corners read as one map plus the whole picture (the released weights), the
# corners read one by one plus the whole picture, or the whole picture alone.
Views = Literal["corners", "separate", "single"]
MAPS_PER_PICTURE = {"corners": 2, "separate": 5, "single": 1}


class CAbstractorConfig(PreTrainedConfig):
    """The shape of one C-Abstractor. Its output is as wide as the language model."""

    model_type = "qh_360vl_abstractor"
    base_config_key = "projector_config"

    encoder_hidden_size: int = 1024
    hidden_size: int = 1024
    depth: int = 3
    readout_depth: int = 2
    queries: int = 576
    positions: int = 577  # rows of the position table: the patches of a view and the class token
    eos_tokens: int = 0
    position_table: bool = True
    prenorm: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, count in (
            ("queries", self.queries),
            ("positions without the class token", self.positions - 1),
        ):
            if count < 1 or math.isqrt(count) ** 2 != count:
                raise ConfigError(f"the projector's number of {name} is {count}; it must be a square number")
        if self.depth < 1 or self.readout_depth < 1:
            raise ConfigError(
                f"the projector has depth {self.depth}, readout {self.readout_depth}; both must be 1 or more"
            )

    @property
    def slots(self) -> int:
        """How many embeddings the projector writes for one map."""
        return self.queries + self.eos_tokens


class QH360VLConfig(PreTrainedConfig):
    """A whole 360VL model; the defaults are the 8B model's."""

    model_type = "qh_360vl"
    # The parts that are models of their own; the projector is not one.
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {  # pyright: ignore
        "vision_config": CLIPVisionConfig,
        "text_config": LlamaConfig,
    }

    vision_config: Any = None
    projector_config: Any = None
    text_config: Any = None
    image_token_id: int = 128049
    views: Views = "corners"
    vision_feature_layer: int = -2
    vision_feature_select: str = "patch"
    image_aspect_ratio: str | None = "pad"
    base_vision_tower: str | None = None  # where the tower comes from if the checkpoint does not hold it
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in {**self.sub_configs, "projector_config": CAbstractorConfig}.items():
            given = getattr(self, name)
            if given is None or isinstance(given, dict):
                setattr(self, name, kind(**(DEFAULTS[name] if given is None else given)))
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        self._check()

    @property
    def views_per_picture(self) -> int:
        """How often the tower looks at a picture: whole, and at its four corners unless `views` is single."""
        return 1 if self.views == "single" else 5

    def _check(self) -> None:
        tower, projector = self.vision_config, self.projector_config
        if self.views not in get_args(Views):
            raise ConfigError(f"views is {self.views!r}; it must be one of {', '.join(get_args(Views))}")
        if self.vision_feature_select != "patch":
            raise ConfigError(
                f"vision_feature_select is {self.vision_feature_select!r}; "
                "only 'patch' leaves a square map to project"
            )
        if not 0 <= self.tower_depth <= tower.num_hidden_layers:
            raise ConfigError(
                f"vision_feature_layer is {self.vision_feature_layer}; "
                f"the vision tower has only {tower.num_hidden_layers} layers"
            )
        if projector.encoder_hidden_size != tower.hidden_size:
            raise ConfigError(
                f"the projector reads features of width {projector.encoder_hidden_size} "
                f"and the vision tower gives {tower.hidden_size}"
            )

    @property
    def tower_depth(self) -> int:
        """How many tower layers run: those up to the one whose output the projectors read."""
        layer = self.vision_feature_layer
        return layer if layer >= 0 else self.vision_config.num_hidden_layers + 1 + layer

    @property
    def slots_per_picture(self) -> int:
        """How many positions of the prompt one picture takes."""
        return MAPS_PER_PICTURE[self.views] * self.projector_config.slots

    @classmethod
    def from_published(
        cls, config: dict[str, Any], folder: str | os.PathLike[str] | None = None
    ) -> QH360VLConfig:
        """From a published `config.json`; `folder` is where relative paths in it start."""
        return cls(**published.to_ours(config, None if folder is None else Path(folder)))

    def to_published(self) -> dict[str, Any]:
        """The published `config.json` of this model."""
        return published.from_ours(self)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads `config.json`; a published one is translated here, where its folder is known."""
        config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config.get("model_type") == published.MODEL_TYPE:
            place = Path(pretrained_model_name_or_path)
            config = published.to_ours(config, place.parent if place.is_file() else place)
        return config, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From our own form or the published one; the Auto classes read the file and call this."""
        if config_dict.get("model_type") == published.MODEL_TYPE:
            folder = kwargs.get("name_or_path")
            config_dict = published.to_ours(config_dict, Path(folder) if folder else None)
        return super().from_dict(config_dict, **kwargs)


class PublishedQH360VLConfig(QH360VLConfig):
    """The published model type, for the Auto classes only: opening it gives a `QH360VLConfig`."""

    model_type = published.MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A `QH360VLConfig`."""
        return QH360VLConfig.from_dict(config_dict, **kwargs)


DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_config": published.TOWERS["openai/clip-vit-large-patch14-336"],
    "projector_config": {},
    "text_config": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}
