"""The published `config.json` of LLaVA and its relatives and our configuration, read in both directions.

`model_type` is "llava" in the older published files and "llava_llama" in the later ones; "llava" is also what
llava-hf's converted files say. The two are told apart by what they hold: the published file describes the
language model itself and names the tower in `mm_vision_tower`.
"""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError
from beholder.families.llava import towers

MODEL_TYPES = ("llava", "llava_llama")
ARCHITECTURE = "LlavaLlamaForCausalLM"
# What a model here is built of; the first is what transformers takes where a configuration says nothing.
PARTS = {"vision_config": ("clip_vision_model", "internvl_vision"), "text_config": ("llama",)}
ROW_MULTIPLE = 64
EXTRA_ROWS = 2  # llava-hf's <image> and <pad>

log = logging.getLogger("beholder")

SAME_IN_TEXT = (
    "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
    "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings", "mlp_bias",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id", "rms_norm_eps",
    "tie_word_embeddings", "use_cache",
)  # fmt: skip
REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
OWN = {  # published -> ours
    "image_aspect_ratio": "image_aspect_ratio",
    "image_grid_pinpoints": "image_grid_pinpoints",
    "mm_patch_merge_type": "patch_merge_type",
    "mm_projector_type": "projector_type",
    "mm_use_im_start_end": "use_start_end",
    "mm_vision_select_layer": "vision_feature_layer",
    "mm_vision_tower": "base_vision_tower",
    "quantization_config": "quantization_config",
    "tokenizer_model_max_length": "longest_sequence",
}
SELECT = {"patch": "default", "cls_patch": "full"}
HANDLED = {
    "mm_hidden_size", "mm_use_im_patch_token", "mm_vision_select_feature", "model_type", "rope_scaling",
    "rope_theta",
    "torch_dtype", "dtype", "vocab_size", "vision_config", "input_size", "template",
}  # fmt: skip
# How the weights were trained, who saved them, and settings of code that is not here.
IGNORED = {
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_commit_hash", "_name_or_path", "architectures", "auto_map", "freeze_backbone", "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler", "freeze_vision_tower", "image_crop_resolution", "image_split_resolution",
    "image_token_len", "max_length", "mm_projector_lr", "mm_resampler_type", "mm_vision_tower_lr",
    "pretrain_mm_mlp_adapter",
    "pretraining_tp", "sep_image_conv_front", "tokenizer_padding_side", "transformers_version",
    "tune_entire_model",
    "tune_mm_mlp_adapter", "tune_mm_vision_resampler", "tune_vision_tower", "tune_vit_from_layer",
    "tune_vit_pos_embedding",
    "unfreeze_mm_vision_tower", "use_mm_proj", "use_flash_attn", "vision_tower_lr",
}  # fmt: skip
# Words at the beginning of keys that change what a picture is; one that we do not know may not be passed
# over.
ABOUT_PICTURES = ("mm_", "image_", "vision_", "s2")
# The published loader reads an absent key as these.
ABSENT = {"mm_projector_type": "linear", "mm_patch_merge_type": "flat", "image_aspect_ratio": None}
WRITTEN: dict[str, Any] = {
    "freeze_mm_mlp_adapter": False, "mm_resampler_type": None, "pretraining_tp": 1,
    "tune_mm_mlp_adapter": False,
    "use_mm_proj": True,
}  # fmt: skip


def is_published(config: dict[str, Any]) -> bool:
    """Whether this is a published `config.json`, and neither llava-hf's nor ours."""
    if config.get("model_type") not in MODEL_TYPES or "text_config" in config:
        return False
    names_architecture = any(str(name).startswith("Llava") for name in config.get("architectures") or ())
    return "hidden_size" in config and (names_architecture or any(key.startswith("mm_") for key in config))


def has_other_parts(config: dict[str, Any]) -> bool:
    """Whether a `llava` of transformers' own layout is built of a tower or a language model not ours.

    transformers' class of that name takes any: Pixtral, BakLLaVA and LLaVA-Interleave are published as it.
    """
    if config.get("model_type") != "llava" or "text_config" not in config:
        return False
    return any(
        isinstance(part := config.get(name), dict) and part.get("model_type", known[0]) not in known
        for name, known in PARTS.items()
    )


def to_ours(config: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The keyword arguments of `BeholderLlavaConfig`; `folder` is where the tower's relative path starts."""
    _look_at_keys(config)
    rows = config["vocab_size"]
    tower = towers.describe(config, folder)
    ours = {mine: config.get(theirs, ABSENT.get(theirs)) for theirs, mine in OWN.items()}
    ours = {mine: value for mine, value in ours.items() if value is not None}
    if config.get("mm_hidden_size", tower.width) != tower.width:
        raise ConfigError(
            f"mm_hidden_size is {config['mm_hidden_size']} in config.json and the vision tower "
            f"has {tower.width}"
        )
    select = config.get("mm_vision_select_feature", "patch")
    if select not in SELECT:
        raise ConfigError(f"mm_vision_select_feature is {select!r}; known: {', '.join(SELECT)}")
    ours.setdefault("vision_feature_layer", -2)
    ours.setdefault("image_aspect_ratio", "square")
    return ours | {
        "dtype": config.get("dtype", config.get("torch_dtype")),
        "image_token_index": rows,
        "input_size": tower.input_size,
        "published_vocab_size": rows,
        "text_config": _text(config) | {"vocab_size": padded_rows(rows), "model_type": "llama"},
        "template": config.get("template"),
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        # Absent means yes to the published loader, which then adds a token that nothing uses.
        "use_patch_token": config.get("mm_use_im_patch_token", True),
        "vision_config": tower.config,
        "vision_feature_select_strategy": SELECT[select],
        "has_newline": "unpad" in (ours.get("patch_merge_type") or ""),
    }


def from_ours(config: Any) -> dict[str, Any]:
    """The published `config.json` of our configuration; a tower that is not a known one is spelled out.

    ConfigError where a setting has no place there, so that it would be lost.
    """
    text = config.text_config
    fixed = {"projector_hidden_act": "gelu", "multimodal_projector_bias": True}
    lost = [
        f"{key} {getattr(config, key)!r}" for key, usual in fixed.items() if getattr(config, key) != usual
    ]
    if not isinstance(config.vision_feature_layer, int):
        lost.append(f"vision_feature_layer {config.vision_feature_layer!r}")
    if lost:
        raise ConfigError(f"the published LLaVA config.json has no place for {', '.join(lost)}")
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    usual = {"head_dim": text.hidden_size // text.num_attention_heads, "mlp_bias": False}
    published: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "llava_llama",
        **{key: getattr(text, key) for key in SAME_IN_TEXT if getattr(text, key) != usual.get(key, ...)},
        **{theirs: getattr(config, mine, None) for theirs, mine in OWN.items()},
        **WRITTEN,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_use_im_patch_token": config.use_patch_token,
        "mm_vision_select_feature": {ours: theirs for theirs, ours in SELECT.items()}[
            config.vision_feature_select_strategy
        ],
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope,
        "rope_theta": theta,
        "template": config.template,
        "torch_dtype": None if config.dtype is None else str(config.dtype).removeprefix("torch."),
        "vocab_size": config.used_rows,
        **towers.to_published(config),
    }
    optional = {
        "image_grid_pinpoints", "input_size", "quantization_config", "template", "tokenizer_model_max_length",
        "torch_dtype", "mm_vision_tower",
    }  # fmt: skip
    return {
        key: value for key, value in sorted(published.items()) if key not in optional or value is not None
    }


def padded_rows(rows: int) -> int:
    """How many rows the vocabulary has in llava-hf's convention: two more tokens, up to a multiple of 64."""
    return -(-(rows + EXTRA_ROWS) // ROW_MULTIPLE) * ROW_MULTIPLE


def pinpoints(given: Any) -> list[list[int]]:
    """The resolutions that a picture may be cut to, as (width, height); also from the text of such a list."""
    try:
        listed = ast.literal_eval(given) if isinstance(given, str) else given
        return [[int(width), int(height)] for width, height in listed]
    except (SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f"image_grid_pinpoints is {given!r}; it must be a list of (width, height) pairs"
        ) from error


def _look_at_keys(config: dict[str, Any]) -> None:
    if lacking := [key for key in REQUIRED if key not in config]:
        raise ConfigError(f"the published LLaVA config.json lacks {', '.join(lacking)}")
    if config.get("s2"):
        raise ConfigError("config.json has s2 set: features of several scales are not supported")
    known = {*SAME_IN_TEXT, *OWN, *HANDLED, *IGNORED, "s2", "s2_scales"}
    unknown = sorted(config.keys() - known)
    if about := [key for key in unknown if key.startswith(ABOUT_PICTURES)]:
        raise ConfigError(f"unknown keys in the published LLaVA config.json: {', '.join(about)}")
    if unknown:
        log.info("keys of config.json that are not used: %s", ", ".join(unknown))


def _text(config: dict[str, Any]) -> dict[str, Any]:
    scaling = {
        ("rope_type" if key == "type" else key): value
        for key, value in (config.get("rope_scaling") or {}).items()
    }
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0), **scaling}
    return {key: config[key] for key in SAME_IN_TEXT if key in config} | {"rope_parameters": rope}
