"""The published `config.json` of CogVLM and our configuration, read in both directions.

Every published key is mapped, checked, or listed as ignored; any other is an error, so that a setting we do
not know cannot be lost in silence. The published file has no `model_type`: `architectures` tells whose it is.
"""

from __future__ import annotations

from typing import Any

from beholder.core.errors import ConfigError

ARCHITECTURE = "CogVLMForCausalLM"

TEXT = (
    "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range", "intermediate_size",
    "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "pad_token_id", "rms_norm_eps",
    "tie_word_embeddings", "use_cache", "vocab_size",
)  # fmt: skip
# What a published file must say. Where the original's class has a default of its own for the norm, the
# released weights were trained with another.
REQUIRED = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "rms_norm_eps",
    "vision_config", "vocab_size",
)  # fmt: skip
VISION = {  # published -> ours
    "dropout_prob": "dropout",
    "hidden_act": "hidden_act",
    "hidden_size": "hidden_size",
    "image_size": "image_size",
    "in_channels": "num_channels",
    "intermediate_size": "intermediate_size",
    "layer_norm_eps": "layer_norm_eps",
    "num_heads": "num_attention_heads",
    "num_hidden_layers": "num_hidden_layers",
    "patch_size": "patch_size",
}
VISION_REQUIRED = tuple(key for key in VISION if key not in ("dropout_prob", "in_channels"))
# Not in the released files; written only where it is not the usual.
ADDED = {"rope_theta": ("rope_base", 10000.0), "rotary_tables": ("rotary_tables", "float32")}
HANDLED = {"dtype", "quantization_config", "template_version", "torch_dtype", "vision_config"}
# Where the weights came from, and which remote code would have run them.
IGNORED = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "model_type", "transformers_version",
}  # fmt: skip
REMOTE_CODE = {
    "AutoConfig": "configuration_cogvlm.CogVLMConfig",
    "AutoModelForCausalLM": "modeling_cogvlm.CogVLMForCausalLM",
}


def is_published(config: dict[str, Any]) -> bool:
    """Whether a `config.json` has the published form: the decoder's settings stand at the top."""
    return ARCHITECTURE in (config.get("architectures") or ()) and "text_config" not in config


def to_ours(config: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `CogVLMConfig`."""
    _refuse_unknown(config, {*TEXT, *ADDED, *HANDLED, *IGNORED}, "config.json")
    if lacking := [key for key in REQUIRED if key not in config]:
        raise ConfigError(f"the published CogVLM config.json lacks {', '.join(lacking)}")
    text = {key: config[key] for key in TEXT if key in config}
    text |= {mine: config[theirs] for theirs, (mine, _) in ADDED.items() if theirs in config}
    text.setdefault("tie_word_embeddings", False)
    ours: dict[str, Any] = {
        "text_config": text,
        "vision_config": _vision(config["vision_config"]),
        "template": config.get("template_version", "chat"),
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    ours |= {key: config[key] for key in ("initializer_range", "quantization_config") if key in config}
    if (dtype := config.get("dtype", config.get("torch_dtype"))) is not None:
        ours["dtype"] = dtype
    return ours


def _vision(given: dict[str, Any]) -> dict[str, Any]:
    _refuse_unknown(given, {*VISION, "num_positions"}, "vision_config")
    if lacking := [key for key in VISION_REQUIRED if key not in given]:
        raise ConfigError(f"vision_config in the published CogVLM config.json lacks {', '.join(lacking)}")
    patches = (given["image_size"] // given["patch_size"]) ** 2
    if given.get("num_positions", patches + 1) != patches + 1:
        raise ConfigError(
            f"num_positions is {given['num_positions']} in vision_config; pictures of {given['image_size']} "
            f"pixels in patches of {given['patch_size']} need {patches + 1}"
        )
    return {mine: given[theirs] for theirs, mine in VISION.items() if theirs in given}


def _refuse_unknown(given: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(given.keys() - known):
        raise ConfigError(f"unknown keys in the published CogVLM {where}: {', '.join(unknown)}")


def from_ours(config: Any) -> dict[str, Any]:
    """The published `config.json` of our configuration."""
    text, vision = config.text_config, config.vision_config
    published: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "auto_map": dict(REMOTE_CODE),
        **{key: getattr(text, key) for key in TEXT},
        "template_version": config.template,
        "vision_config": {
            **{theirs: getattr(vision, mine) for theirs, mine in sorted(VISION.items())},
            "num_positions": vision.patches + 1,
        },
    }
    for theirs, (mine, usual) in ADDED.items():
        if getattr(text, mine) != usual:
            published[theirs] = getattr(text, mine)
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        published["quantization_config"] = quantization
    if config.dtype is not None:
        published["torch_dtype"] = str(config.dtype).removeprefix("torch.")
    return dict(sorted(published.items()))
