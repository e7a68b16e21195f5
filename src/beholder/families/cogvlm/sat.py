"""CogVLM's SAT checkpoints: their names, how ranks share tensors, and the way from and to our layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from beholder.checkpoints.keys import KeyTable
from beholder.checkpoints.planning import Plan
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.sat import (
    Cut,
    Cuts,
    Hold,
    as_is,
    merged,
    new_folder,
    open_sat,
    unknown_names,
    write_sat,
)
from beholder.checkpoints.scratch import Scratch
from beholder.checkpoints.splits import apart, targets, whole_shape, with_rows
from beholder.checkpoints.streams import tensor_of
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families.cogvlm.config import CogVLMConfig, TemplateName
from beholder.families.cogvlm.layout import PUBLISHED

# Tables with fewer rows than this are whole in every rank.
SMALLEST_CUT_TABLE = 1000
SHARD = "2GB"  # a file of the published layout is put together in memory
TOWER = "mixins.eva.vit_model"
PUBLISHED_TOWER = "model.vision"
INV_FREQ = "mixins.rotary.rotary_emb.inv_freq"


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


def config_from_sat(stored: Mapping[str, Any], template: TemplateName) -> CogVLMConfig:
    """Our configuration of a `model_config.json`, which does not say how prompts are written."""
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
    return {
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


def published_tensors(folder: Path, hold: Hold = as_is) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration of a SAT folder, and its tensors whole, folded, and under their published names."""
    opened = open_sat(folder)
    tensors: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in merged(opened, cuts_of(opened.config.get("vocab_size", 0)), hold).items():
        try:
            published = SAT.ours(name)
        except KeyError:
            unknown.append(name)
            continue
        if published is not None:
            tensors[published] = tensor
    if unknown:
        raise unknown_names(unknown)
    return opened.config, tensors


def from_sat(source: Path, target: Path, *, template: TemplateName = "chat") -> Path:
    """Write a SAT checkpoint, of any number of ranks, as a published one; nothing is left where it fails.

    `template` is what the checkpoint was trained for: chat, vqa, or base (also for grounding).
    """
    from huggingface_hub import save_torch_state_dict

    with new_folder(target) as partial, Scratch(partial) as scratch:
        stored, tensors = published_tensors(source, scratch.hold)
        config = config_from_sat(stored, template)
        _compare(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
        config.dtype = tensors["lm_head.weight"].dtype
        text = json.dumps(config.to_published(), indent=2, ensure_ascii=False) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_torch_state_dict(whole, partial, max_shard_size=SHARD)
    return target


def to_sat(source: Path, target: Path, *, ranks: int = 1) -> Path:
    """Write a checkpoint of the published or our layout as SAT's, for `ranks` processes."""
    from beholder.checkpoints.loader import check
    from beholder.families import family

    found = family("cogvlm")
    plan, contents = check(source, found)
    heads = (plan.config.text_config.num_attention_heads, plan.config.vision_config.num_attention_heads)
    if ranks < 1 or any(count % ranks for count in heads):
        raise ConfigError(f"{heads[0]} and {heads[1]} heads cannot be shared among {ranks} ranks evenly")
    with new_folder(target) as partial:
        cuts = cuts_of(plan.config.text_config.vocab_size)
        tensors = ((SAT.theirs(name), tensor) for name, tensor in _published(contents, plan))
        write_sat(partial, config_to_sat(cast("CogVLMConfig", plan.config)), tensors, cuts, ranks=ranks)
    return target


def _published(contents: Contents, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors under their published names, one after the other."""
    from beholder.checkpoints.writer import renamed

    held = {stored: targets(plan.names, stored) for stored in contents.tensors}
    parameters = with_rows(apart(held), contents.tensors, plan.padded)
    for name, made_of in renamed(parameters, PUBLISHED).items():
        yield name, tensor_of(contents, made_of, name)


def _compare(config: CogVLMConfig, have: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """The tensors must be those of the model that the configuration describes."""
    from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration

    with torch.device("meta"):
        wanted = {
            name: tuple(tensor.shape)
            for name, tensor in CogVLMForConditionalGeneration(config).state_dict().items()
        }
    names = dict.fromkeys(PUBLISHED.theirs(name) for name in wanted)
    shapes = {name: whole_shape([wanted[part] for part in targets(PUBLISHED, name)]) for name in names}
    wrong = sorted(name for name in shapes.keys() | have.keys() if shapes.get(name) != have.get(name))
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"{source} does not fit its model_config.json: {len(wrong)} tensors, first {first} "
            f"(stored {have.get(first)}, wanted {shapes.get(first)})"
        )
