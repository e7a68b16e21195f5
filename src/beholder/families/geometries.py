"""The published sizes: for each name the family and the `config.json` that its authors published.

From the released configurations; what a release only names, its tower, is spelled out beside it. With it a
checkpoint of that size can be made without the released weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from beholder.core.errors import ConfigError

TokenizerKind = Literal["llama", "llama3"]
LEAST_TOWER_LAYERS = 4  # features are taken from up to the fourth layer from the end


@dataclass(frozen=True)
class Geometry:
    """One published size. `tower` describes what `config` names; empty where `config` spells it out."""

    family: str
    config: Mapping[str, Any]
    tokenizer: TokenizerKind
    tower: Mapping[str, Any] = field(default_factory=dict[str, Any])
    spelled_tower: bool = False  # whether the checkpoint is another tower than its name says


CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    "projection_dim": 768,
}  # fmt: skip
INTERN = {
    "model_type": "intern_vit_6b", "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 48,
    "num_attention_heads": 25, "patch_size": 14, "qk_normalization": True, "qkv_bias": False,
    "initializer_factor": 0.1, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "attention_dropout": 0.0,
    "dropout": 0.0, "num_channels": 3,
}  # fmt: skip
LLAVA = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "freeze_mm_mlp_adapter": False, "hidden_act": "silu", "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None, "initializer_range": 0.02, "max_position_embeddings": 4096,
    "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16",
    "tune_mm_mlp_adapter": False, "use_cache": True, "use_mm_proj": True, "vocab_size": 32000,
}  # fmt: skip
INTERN_CHAT = LLAVA | {
    "mm_hidden_size": 3200, "mm_vision_select_layer": -4, "torch_dtype": "bfloat16",
    "mm_vision_tower": "OpenGVLab/InternViT-6B-224px",
}  # fmt: skip
SMALL = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32,
}  # fmt: skip
LARGE = {
    "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
TINY_LLAMA = {
    "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 2048,
    "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
}  # fmt: skip
QH360VL = {
    "architectures": ["QH360_VL_LlamaForCausalLM"], "model_type": "QH_360VL", "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001, "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu", "hidden_size": 4096, "image_aspect_ratio": "pad", "image_grid_pinpoints": None,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 8192,
    "mm_hidden_size": 1024, "mm_num_tokens": 577, "mm_projector_lr": None, "mm_projector_type": "c-abs",
    "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "proj_2": True, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "tune_mm_mlp_adapter": False,
    "use_cache": True, "use_mm_proj": True, "vocab_size": 128256,
    "visual_projector_config": {
        "model_type": "mllm_visual_projector", "projector_type": "c-abs", "depth": 3,
        "encoder_hidden_size": 1024, "hidden_size": 1024, "initializer_range": 0.02, "mlp_depth": 2,
        "num_eos_tokens": 0, "num_queries": 576, "pos_emb": True, "prenorm": False, "use_cls": True,
    },
}  # fmt: skip
COGVLM = {
    "architectures": ["CogVLMForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
    "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32,
    "rms_norm_eps": 1e-05, "template_version": "chat", "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32000,
    "vision_config": {
        "dropout_prob": 0.0, "hidden_act": "gelu", "hidden_size": 1792, "image_size": 490, "in_channels": 3,
        "intermediate_size": 15360, "layer_norm_eps": 1e-06, "num_heads": 16, "num_hidden_layers": 63,
        "num_positions": 1226, "patch_size": 14,
    },
}  # fmt: skip


def _cogvlm(side: int, template: str) -> Geometry:
    tower = COGVLM["vision_config"] | {"image_size": side, "num_positions": (side // 14) ** 2 + 1}  # type: ignore[operator]
    return Geometry("cogvlm", COGVLM | {"vision_config": tower, "template_version": template}, "llama")


GEOMETRIES: dict[str, Geometry] = {
    "llava-1.5-7b": Geometry("llava", LLAVA | SMALL, "llama", CLIP),
    "llava-1.5-13b": Geometry("llava", LLAVA | LARGE, "llama", CLIP),
    # Of no release: TinyLlama's sizes under LLaVA-1.5's tower, to measure where 7B is too large.
    "llava-1.1b": Geometry("llava", LLAVA | TINY_LLAMA, "llama", CLIP),
    # Saved with the position table that a picture of 336 pixels needs, whatever the tower was trained on.
    "internvl-chat-7b": Geometry(
        "internvl_chat", INTERN_CHAT | SMALL, "llama", INTERN | {"image_size": 336}, spelled_tower=True
    ),
    "internvl-chat-13b": Geometry(
        "internvl_chat", INTERN_CHAT | LARGE, "llama", INTERN | {"image_size": 336}, spelled_tower=True
    ),
    "internvl-chat-13b-448": Geometry(
        "internvl_chat",
        INTERN_CHAT | LARGE | {"mm_vision_tower": "OpenGVLab/InternViT-6B-448px"},
        "llama",
        INTERN | {"image_size": 448},
    ),
    "cogvlm-chat": _cogvlm(490, "chat"),
    "cogvlm-base-224": _cogvlm(224, "base"),
    "cogvlm-base-490": _cogvlm(490, "base"),
    "cogvlm-grounding-generalist": _cogvlm(490, "base"),
    "360vl-8b": Geometry("qh360vl", QH360VL, "llama3", CLIP),
    "360vl-70b": Geometry(
        "qh360vl",
        QH360VL
        | {
            "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
            "num_hidden_layers": 80, "pretraining_tp": 8,
        },
        "llama3",
        CLIP,
    ),
}  # fmt: skip


def geometry(name: str) -> Geometry:
    """The size of that name."""
    if name not in GEOMETRIES:
        raise ConfigError(f"there is no published size {name!r}; known: {', '.join(GEOMETRIES)}")
    return GEOMETRIES[name]


def published_config(
    size: Geometry, layers: int | None = None, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `config.json` of a size with at most `layers` layers and other values; what follows is adapted.

    `changes` are by key, `vision_config.hidden_size` for one of the tower. A tower that is not the named one
    any more is spelled out.
    """
    config: dict[str, Any] = copy.deepcopy(dict(size.config))
    spelled = "vision_config" in config
    tower: dict[str, Any] = config["vision_config"] if spelled else dict(size.tower)
    before = dict(tower)
    if layers is not None:
        if layers < 1:
            raise ConfigError(f"layers is {layers}; a model has at least 1")
        config["num_hidden_layers"] = min(layers, config["num_hidden_layers"])
        tower["num_hidden_layers"] = min(max(layers, LEAST_TOWER_LAYERS), tower["num_hidden_layers"])
    for key, value in (changes or {}).items():
        place = {"vision_config": tower, "visual_projector_config": config.get("visual_projector_config")}
        part, _, inner = key.rpartition(".")
        into, name = (config, key) if not part else (place.get(part), inner)
        if into is None or name not in into:
            raise ConfigError(f"{key!r} is no setting of this size; known: {', '.join(_keys(config, tower))}")
        into[name] = value
    if not spelled and (tower != before or size.spelled_tower):
        config["vision_config"] = tower
    return _adapted(config, tower)


def _keys(config: Mapping[str, Any], tower: Mapping[str, Any]) -> list[str]:
    keys = [key for key in config if not isinstance(config[key], dict)]
    keys += [f"vision_config.{key}" for key in tower]
    return keys + [f"visual_projector_config.{key}" for key in config.get("visual_projector_config", {})]


def _adapted(config: dict[str, Any], tower: Mapping[str, Any]) -> dict[str, Any]:
    """With the values that follow from the tower's and the vocabulary's size."""
    patches = (tower["image_size"] // tower["patch_size"]) ** 2
    follows: dict[str, Any] = {"mm_hidden_size": tower["hidden_size"], "mm_num_tokens": patches + 1}
    config |= {key: value for key, value in follows.items() if key in config}
    if "num_positions" in tower:
        config["vision_config"]["num_positions"] = patches + 1
    if (projector := config.get("visual_projector_config")) is not None:
        projector["encoder_hidden_size"] = tower["hidden_size"]
        if config["vocab_size"] != QH360VL["vocab_size"]:
            base = config["vocab_size"] - SPECIALS
            config |= {"bos_token_id": base, "eos_token_id": base + 1, "image_token_id": base + IMAGE_OFFSET}
    return config


SPECIALS = 256  # the special tokens at the end of Llama-3's vocabulary
IMAGE_OFFSET = 49  # the one of them that stands for a picture


# What makes a published size of each system small enough to be tried in seconds: widths and heads that every
# engine takes, while the towers keep their pictures' sizes. For `write_random`, with a few layers.
TRIAL_WIDTHS: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "vision_config.hidden_size": 64, "vision_config.intermediate_size": 128,
}  # fmt: skip
TRIAL: dict[str, dict[str, Any]] = {
    "360vl": TRIAL_WIDTHS | {
        "num_key_value_heads": 2, "vision_config.num_attention_heads": 4,
        "visual_projector_config.hidden_size": 64, "visual_projector_config.depth": 1,
    },
    "llava": TRIAL_WIDTHS | {"num_key_value_heads": 4, "vision_config.num_attention_heads": 4},
    "internvl": TRIAL_WIDTHS | {"num_key_value_heads": 4, "vision_config.num_attention_heads": 4},
    "cogvlm": TRIAL_WIDTHS | {"vision_config.num_heads": 4, "vision_config.image_size": 224},
}  # fmt: skip
