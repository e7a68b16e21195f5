"""The published `config.json` of 360VL and our configuration, read in both directions.

Every published key is mapped, checked, or listed as ignored; any other is an error, so that a setting we do
not know cannot be lost in silence.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError

MODEL_TYPE = "QH_360VL"

# The published config.json names its tower and does not describe it. These are the published CLIP
# configurations, shortened to what differs between them.
TOWERS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 336, "patch_size": 14, "projection_dim": 768,
    },
    "openai/clip-vit-large-patch14": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 14, "projection_dim": 768,
    },
    "openai/clip-vit-base-patch16": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16, "projection_dim": 512,
    },
    "openai/clip-vit-base-patch32": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32, "projection_dim": 512,
    },
}  # fmt: skip

CLIP_DEFAULTS: dict[str, Any] = {
    "attention_dropout": 0.0, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3,
}  # fmt: skip
CLIP_KEYS = (*TOWERS["openai/clip-vit-large-patch14-336"], *CLIP_DEFAULTS)
OPTIONAL = {"mm_vision_tower", "quantization_config", "torch_dtype"}

SAME_IN_TEXT = (
    "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
    "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings", "mlp_bias",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id", "rms_norm_eps",
    "tie_word_embeddings", "use_cache", "vocab_size",
)  # fmt: skip
OWN = {  # published -> ours
    "image_aspect_ratio": "image_aspect_ratio",
    "image_token_id": "image_token_id",  # not in the released files: theirs is a constant of the code
    "initializer_range": "initializer_range",
    "mm_vision_select_feature": "vision_feature_select",
    "mm_vision_select_layer": "vision_feature_layer",
    "mm_vision_tower": "base_vision_tower",
    "quantization_config": "quantization_config",
    "tie_word_embeddings": "tie_word_embeddings",
    "torch_dtype": "dtype",
}
PROJECTOR = {  # keys of visual_projector_config -> ours
    "depth": "depth",
    "encoder_hidden_size": "encoder_hidden_size",
    "hidden_size": "hidden_size",
    "initializer_range": "initializer_range",
    "mlp_depth": "readout_depth",
    "num_eos_tokens": "eos_tokens",
    "num_queries": "queries",
    "pos_emb": "position_table",
    "prenorm": "prenorm",
}
# Ignored when read; written because the published code asks for them.
WRITTEN: dict[str, Any] = {
    "freeze_mm_mlp_adapter": False, "image_grid_pinpoints": None, "mm_projector_config": ".",
    "mm_projector_lr": None, "pretraining_tp": 1, "tune_mm_mlp_adapter": False, "use_mm_proj": True,
}  # fmt: skip
RELEASED_IMAGE_TOKEN_ID = 128049
REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
# A model with any of these set otherwise is not one that the published code can run.
FIXED: dict[str, Any] = {
    "mm_projector_type": "c-abs",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
}
PROJECTOR_FIXED: dict[str, Any] = {"projector_type": "c-abs", "use_cls": True}
HANDLED = {
    "dtype", "mm_hidden_size", "mm_num_tokens", "model_type", "proj_2", "rope_scaling", "rope_theta",
    "vision_config", "visual_projector_config",
}  # fmt: skip
# Where the weights came from, how they were trained, and pretraining_tp: slices of the same arithmetic.
IGNORED = {
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_commit_hash", "_name_or_path", "architectures", "auto_map", "freeze_mm_mlp_adapter",
    "image_grid_pinpoints", "mm_projector_config", "mm_projector_lr", "pretraining_tp",
    "transformers_version", "tune_mm_mlp_adapter", "use_mm_proj",
}  # fmt: skip
# The projector's configuration was dumped with everything a transformers 4 configuration carried along. The
# convolutions read neither layer_norm_eps nor feature_layer_index.
PROJECTOR_IGNORED = set(
    """
    _name_or_path add_cross_attention architectures attention_probs_dropout_prob bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    eos_token_id exponential_decay_length_penalty feature_layer_index finetuning_task forced_bos_token_id
    forced_eos_token_id id2label intermediate_size is_decoder is_encoder_decoder label2id layer_norm_eps
    length_penalty max_length min_length model_type no_repeat_ngram_size num_attention_heads
    num_beam_groups num_beams num_hidden_layers num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p use_bfloat16
    """.split()
)


def to_ours(config: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The keyword arguments of `QH360VLConfig`; `folder` is where a relative path of the tower starts."""
    known = {*SAME_IN_TEXT, *OWN, *FIXED, *HANDLED, *IGNORED}
    _refuse_unknown(config, known, "config.json")
    if lacking := [key for key in (*REQUIRED, "visual_projector_config") if key not in config]:
        raise ConfigError(f"the published 360VL config.json lacks {', '.join(lacking)}")
    _check_fixed(config, FIXED)
    tower = _tower(config, folder)
    ours = {mine: config[theirs] for theirs, mine in OWN.items() if theirs in config}
    if "dtype" in config:
        ours["dtype"] = config["dtype"]
    return ours | {
        "views": _views(config),
        "vision_config": tower,
        "projector_config": _projector(config, tower),
        "text_config": _text(config),
    }


def from_ours(config: Any) -> dict[str, Any]:
    """The published `config.json` of our configuration; its tower is spelled out unless it is a known one."""
    text, projector = config.text_config, config.projector_config
    tower = {key: getattr(config.vision_config, key) for key in CLIP_KEYS}
    usual = {
        "head_dim": text.hidden_size // text.num_attention_heads,
        "mlp_bias": False,
        "pad_token_id": None,
    }
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    published: dict[str, Any] = {
        "architectures": ["QH360_VL_LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        **{key: getattr(text, key) for key in SAME_IN_TEXT if getattr(text, key) != usual.get(key, ...)},
        **{theirs: getattr(config, mine, None) for theirs, mine in OWN.items()},
        **FIXED,
        **WRITTEN,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_num_tokens": projector.positions,
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope,
        "rope_theta": theta,
        "visual_projector_config": {
            "model_type": "mllm_visual_projector",
            **PROJECTOR_FIXED,
            **{theirs: getattr(projector, mine) for theirs, mine in PROJECTOR.items()},
        },
    }
    if config.views != "separate":  # the plan that runs when the key is absent
        published["proj_2"] = config.views == "corners"
    if tower != CLIP_DEFAULTS | TOWERS.get(config.base_vision_tower or "", {}):
        published["vision_config"] = {"model_type": "clip_vision_model", **tower}
    if config.image_token_id == RELEASED_IMAGE_TOKEN_ID:
        del published["image_token_id"]
    published["torch_dtype"] = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    return {
        key: value for key, value in sorted(published.items()) if key not in OPTIONAL or value is not None
    }


def _refuse_unknown(given: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(given.keys() - known):
        raise ConfigError(f"unknown keys in the published 360VL {where}: {', '.join(unknown)}")


def _check_fixed(given: dict[str, Any], fixed: dict[str, Any]) -> None:
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise ConfigError(f"{key} is {given[key]!r} in config.json; 360VL can be run only with {value!r}")


def _views(config: dict[str, Any]) -> str:
    """Absent and false are different: only the absent key builds the projectors of the five-view plan."""
    if "proj_2" not in config:
        return "separate"
    return "corners" if config["proj_2"] else "single"


def _text(config: dict[str, Any]) -> dict[str, Any]:
    scaling = {
        ("rope_type" if key == "type" else key): value
        for key, value in (config.get("rope_scaling") or {}).items()
    }
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0), **scaling}
    return {key: config[key] for key in SAME_IN_TEXT if key in config} | {"rope_parameters": rope}


def _projector(config: dict[str, Any], tower: dict[str, Any]) -> dict[str, Any]:
    given = config["visual_projector_config"]
    _refuse_unknown(given, {*PROJECTOR, *PROJECTOR_FIXED, *PROJECTOR_IGNORED}, "visual_projector_config")
    _check_fixed(given, PROJECTOR_FIXED)
    ours = {mine: given[theirs] for theirs, mine in PROJECTOR.items() if theirs in given}
    patches = (tower["image_size"] // tower["patch_size"]) ** 2
    ours["positions"] = config.get("mm_num_tokens", patches + 1)
    for key, wanted in (("mm_hidden_size", tower["hidden_size"]), ("mm_num_tokens", patches + 1)):
        if config.get(key, wanted) != wanted:
            raise ConfigError(f"{key} is {config[key]} in config.json and the vision tower has {wanted}")
    if math.isqrt(patches) ** 2 != patches:
        raise ConfigError(f"the vision tower sees {patches} patches, which is not a square number")
    return ours


def _tower(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """The tower's geometry: from the configuration, from what is known of published towers, or from its
    folder.
    """
    if isinstance(config.get("vision_config"), dict):
        return dict(config["vision_config"])
    name = config.get("mm_vision_tower")
    if name in TOWERS:
        return dict(TOWERS[name])
    if name is None:
        raise ConfigError("the published 360VL config.json names no mm_vision_tower and has no vision_config")
    file = (folder or Path()) / name / "config.json"
    if not file.is_file():
        raise ConfigError(
            f"the shape of the vision tower {name!r} is unknown: it is none of {', '.join(TOWERS)}, "
            f"there is no {file}, and config.json has no vision_config"
        )
    stored = json.loads(file.read_text(encoding="utf-8"))
    stored = stored.get("vision_config", stored)
    wanted = {"hidden_size", "image_size", "patch_size"}
    if lacking := sorted(wanted - stored.keys()):
        raise ConfigError(f"{file} does not describe a CLIP vision tower: it lacks {', '.join(lacking)}")
    return {key: stored[key] for key in CLIP_KEYS if key in stored}
