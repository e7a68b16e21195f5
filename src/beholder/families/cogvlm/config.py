"""CogVLM's configuration: the tower, the decoder with two experts, and how prompts are written.

How the published `config.json` becomes this class, and back, is in `published.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from transformers import PreTrainedConfig

from beholder.core.errors import ConfigError
from beholder.families.cogvlm import published

# How a question becomes a prompt; see `templates.py`.
TemplateName = Literal["chat", "vqa", "base"]
# How exact the tables of the rotary positions are. The published model was trained and served with angles
# rounded to bfloat16, in one of two ways: see `rotary.py`.
RotaryTables = Literal["float32", "bfloat16_sat", "bfloat16_hf"]


class CogVLMVisionConfig(PreTrainedConfig):
    """EVA2-CLIP-E without its last layer; the defaults are those at 490 pixels."""

    model_type = "cogvlm_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_hidden_layers: int = 63
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 490
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_heads(self, "the vision tower")
        if self.patch_size < 1 or self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ConfigError(
                f"pictures of {self.image_size} pixels cannot be cut into patches of {self.patch_size}"
            )

    @property
    def patches(self) -> int:
        """How many patches a picture has."""
        return (self.image_size // self.patch_size) ** 2


class CogVLMTextConfig(PreTrainedConfig):
    """The decoder; every linear layer of it exists twice."""

    model_type = "cogvlm_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # pyright: ignore
    base_model_tp_plan: ClassVar[dict[str, str]] = {  # pyright: ignore
        f"layers.*.{block}.{expert}.{linear}": plan
        for expert in ("language_expert", "vision_expert")
        for block, linear, plan in (
            ("self_attn", "q_proj", "colwise"),
            ("self_attn", "k_proj", "colwise"),
            ("self_attn", "v_proj", "colwise"),
            ("self_attn", "o_proj", "rowwise"),
            ("mlp", "gate_proj", "colwise"),
            ("mlp", "up_proj", "colwise"),
            ("mlp", "down_proj", "rowwise"),
        )
    }

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_base: float = 10000.0
    rotary_tables: RotaryTables = "float32"
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_heads(self, "the language model")
        if self.head_dim % 2:
            raise ConfigError(f"a head of the language model is {self.head_dim} wide; rotary needs pairs")
        if self.rotary_tables not in get_args(RotaryTables):
            known = ", ".join(get_args(RotaryTables))
            raise ConfigError(f"rotary_tables is {self.rotary_tables!r}; it must be one of {known}")

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.hidden_size // self.num_attention_heads


class CogVLMConfig(PreTrainedConfig):
    """A whole CogVLM model; the defaults are chat-v1.1's."""

    model_type = "cogvlm"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {  # pyright: ignore
        "vision_config": CogVLMVisionConfig,
        "text_config": CogVLMTextConfig,
    }

    vision_config: Any = None
    text_config: Any = None
    template: TemplateName = "chat"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in self.sub_configs.items():
            given = getattr(self, name)
            if given is None or isinstance(given, dict):
                setattr(self, name, kind(**(given or {})))
        super().__post_init__(**kwargs)
        if self.template not in get_args(TemplateName):
            known = ", ".join(get_args(TemplateName))
            raise ConfigError(f"the prompt template is {self.template!r}; it must be one of {known}")
        if self.tie_word_embeddings or self.text_config.tie_word_embeddings:
            raise ConfigError("tie_word_embeddings is set; CogVLM's head and embedding are two tensors")
        if self.text_config.pad_token_id is None:
            raise ConfigError("pad_token_id is not set; CogVLM's picture slots hold that id")

    @property
    def image_token_id(self) -> int:
        """What a picture's slots hold: the padding id. That they are slots only token_type_ids can tell."""
        return self.text_config.pad_token_id

    @property
    def slots_per_picture(self) -> int:
        """How many positions of the prompt one picture takes: its patches and a marker at each end."""
        return self.vision_config.patches + 2

    @classmethod
    def from_published(cls, config: dict[str, Any]) -> CogVLMConfig:
        """From a published `config.json`."""
        return cls(**published.to_ours(config))

    def to_published(self) -> dict[str, Any]:
        """The published `config.json` of this model."""
        return published.from_ours(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From our own form or the published one."""
        if published.is_published(config_dict):
            config_dict = published.to_ours(config_dict)
        return super().from_dict(config_dict, **kwargs)


def _check_heads(config: Any, part: str) -> None:
    width, heads = config.hidden_size, config.num_attention_heads
    if heads < 1 or width % heads:
        raise ConfigError(f"{part} is {width} wide, which {heads} heads cannot share evenly")
