"""CogVLM's SAT checkpoints: their names, how ranks share tensors, and their configuration.

How a folder of them is read and written is in `sat_folders.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from beholder.checkpoints.keys import KeyTable
from beholder.checkpoints.sat import Cut, Cuts
from beholder.core.errors import ConfigError
from beholder.families.cogvlm.config import CogVLMConfig, TemplateName

# Tables with fewer rows than this are whole in every rank.
SMALLEST_CUT_TABLE = 1000
TOWER = "mixins.eva.vit_model"
PUBLISHED_TOWER = "model.vision"
INV_FREQ = "mixins.rotary.rotary_emb.inv_freq"
# What later revisions of the original write into model_config.json to say how prompts are written, and our
# names. Their "chat" is CogAgent's.
TEMPLATE_KEY = "text_processor_version"
TEMPLATES: dict[str, TemplateName] = {"chat_old": "chat", "vqa": "vqa", "base": "base"}
MOST_POSITIONS = 2048

log = logging.getLogger("beholder")


def rows() -> Iterator[tuple[str, str | None]]:
    """SAT names and published ones; shapes and numbers are the same."""
    yield INV_FREQ, None
    yield "transformer.word_embeddings.weight", "model.embed_tokens.weight"
    yield "transformer.final_layernorm.weight", "model.norm.weight"
    yield "mixins.lm.lm_head.weight", "lm_head.weight"
    for marker in ("boi", "eoi"):
        yield f"mixins.eva.{marker}", f"{PUBLISHED_TOWER}.{marker}"
    yield "mixins.eva.linear_proj.{rest}", f"{PUBLISHED_TOWER}.linear_proj.{{rest}}"
    yield f"{TOWER}.transformer.word_embeddings.weight", f"{PUBLISHED_TOWER}.patch_embedding.cls_embedding"
    table = "patch_embedding.position_embedding.weight"
    yield f"{TOWER}.transformer.position_embeddings.weight", f"{PUBLISHED_TOWER}.{table}"
    yield f"{TOWER}.mixins.patch_embedding.{{rest}}", f"{PUBLISHED_TOWER}.patch_embedding.{{rest}}"
    theirs, ours = f"{TOWER}.transformer.layers.{{n}}", f"{PUBLISHED_TOWER}.transformer.layers.{{n}}"
    yield f"{theirs}.mlp.dense_h_to_4h.{{rest}}", f"{ours}.mlp.fc1.{{rest}}"
    yield f"{theirs}.mlp.dense_4h_to_h.{{rest}}", f"{ours}.mlp.fc2.{{rest}}"
    yield f"{theirs}.{{rest}}", f"{ours}.{{rest}}"
    theirs, ours = "transformer.layers.{n}", "model.layers.{n}"
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{theirs}.{norm}.weight", f"{ours}.{norm}.weight"
    for sat, published in EXPERT_TENSORS.items():
        yield sat, f"{ours}.{published}.weight"


EXPERT_TENSORS = {
    "transformer.layers.{n}.attention.query_key_value.weight": "self_attn.language_expert_query_key_value",
    "transformer.layers.{n}.attention.dense.weight": "self_attn.language_expert_dense",
    "mixins.rotary.vision_query_key_value_list.{n}.weight": "self_attn.vision_expert_query_key_value",
    "mixins.rotary.vision_dense_list.{n}.weight": "self_attn.vision_expert_dense",
    "mixins.mlp.gate_proj.{n}.weight": "mlp.language_mlp.gate_proj",
    "transformer.layers.{n}.mlp.dense_h_to_4h.weight": "mlp.language_mlp.up_proj",
    "transformer.layers.{n}.mlp.dense_4h_to_h.weight": "mlp.language_mlp.down_proj",
    "mixins.mlp.vision_gate_proj.{n}.weight": "mlp.vision_mlp.gate_proj",
    "mixins.mlp.vision_dense_h_to_4h_list.{n}.weight": "mlp.vision_mlp.up_proj",
    "mixins.mlp.vision_dense_4h_to_h_list.{n}.weight": "mlp.vision_mlp.down_proj",
}
SAT = KeyTable.of(rows())


def cuts_of(vocab_size: int) -> Cuts:
    """How the ranks of a model with such a vocabulary share each tensor."""
    embedding: Cut = "rows" if vocab_size >= SMALLEST_CUT_TABLE else "whole"
    return lambda name: embedding if name == "transformer.word_embeddings.weight" else _cut(name)


def _cut(name: str) -> Cut:
    if name.startswith("mixins.eva.") and not name.startswith(TOWER):
        return "whole"  # markers and adapter
    if "query_key_value" in name:
        return "thirds"
    if any(part in name for part in ("dense_h_to_4h", "gate_proj", "lm_head")):
        return "rows"
    if any(part in name for part in (".dense.", "dense_list.", "dense_4h_to_h")):
        return "columns" if name.endswith(".weight") else "whole"
    return "whole"


def template_of(stored: Mapping[str, Any], given: TemplateName | None) -> TemplateName:
    """How prompts are written: as given, as `model_config.json` says, or where it is silent, `chat`."""
    if given is not None:
        return given
    told = stored.get(TEMPLATE_KEY)
    if told is None:
        log.info("model_config.json does not say how prompts are written; template: chat")
        return "chat"
    if told not in TEMPLATES:
        raise ConfigError(
            f"model_config.json has {TEMPLATE_KEY} {told!r}, which is not CogVLM's ({', '.join(TEMPLATES)}); "
            "say what it was trained for with --template"
        )
    return TEMPLATES[told]


def config_from_sat(stored: Mapping[str, Any], template: TemplateName) -> CogVLMConfig:
    """Our configuration of a `model_config.json`."""
    try:
        tower = stored["eva_args"]
        return CogVLMConfig(
            template=template,
            text_config={
                "vocab_size": stored["vocab_size"],
                "hidden_size": stored["hidden_size"],
                "intermediate_size": stored["inner_hidden_size"],
                "num_hidden_layers": stored["num_layers"],
                "num_attention_heads": stored["num_attention_heads"],
                "rms_norm_eps": stored.get("layernorm_epsilon", 1e-5),  # SAT's own default
                # Of a learned table that CogVLM does not have, so it may be less than the model can do.
                "max_position_embeddings": max(MOST_POSITIONS, stored.get("max_sequence_length", 0)),
            },
            vision_config={
                "hidden_size": tower["hidden_size"],
                "intermediate_size": tower["inner_hidden_size"],
                "num_hidden_layers": tower["num_layers"],
                "num_attention_heads": tower["num_attention_heads"],
                "image_size": tower["image_size"][0],
                "patch_size": tower["patch_size"],
                "num_channels": tower["in_channels"],
                "layer_norm_eps": tower["layernorm_epsilon"],
            },
        )
    except KeyError as error:
        raise ConfigError(
            f"model_config.json lacks {error}, so it does not describe a CogVLM model"
        ) from None


def config_to_sat(config: CogVLMConfig) -> dict[str, Any]:
    """The `model_config.json` of our configuration."""
    text, tower = config.text_config, config.vision_config
    named = {ours: sat for sat, ours in TEMPLATES.items() if ours != "chat"}  # silence means chat
    told = {TEMPLATE_KEY: named[config.template]} if config.template in named else {}
    return told | {
        "model_class": "CogVLMModel",
        "num_layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "num_attention_heads": text.num_attention_heads,
        "vocab_size": text.vocab_size,
        "layernorm_order": "pre",
        "model_parallel_size": 1,
        "max_sequence_length": text.max_position_embeddings,
        "use_bias": False,
        "inner_hidden_size": text.intermediate_size,
        "layernorm_epsilon": text.rms_norm_eps,
        "image_length": tower.patches,
        "eva_args": {
            "model_class": "EVA2CLIPModel",
            "num_layers": tower.num_hidden_layers,
            "hidden_size": tower.hidden_size,
            "num_attention_heads": tower.num_attention_heads,
            "vocab_size": 1,
            "layernorm_order": "post",
            "model_parallel_size": 1,
            "max_sequence_length": tower.patches + 1,
            "inner_hidden_size": tower.intermediate_size,
            "use_final_layernorm": False,
            "layernorm_epsilon": tower.layer_norm_eps,
            "row_parallel_linear_final_bias": False,
            "image_size": [tower.image_size, tower.image_size],
            "pre_len": 1,
            "post_len": 0,
            "in_channels": tower.num_channels,
            "patch_size": tower.patch_size,
        },
    }
