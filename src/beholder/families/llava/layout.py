"""The names of LLaVA's tensors: published, in llava-hf's files, and ours, which are transformers'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from beholder.checkpoints.keys import KeyTable
from beholder.checkpoints.splits import Split
from beholder.families.llava.projector import STANDARD
from beholder.families.llava.towers import PREFIX

LANGUAGE = "model.language_model"
PROJECTOR = "model.multi_modal_projector"
TOWER = "model.vision_tower"
EMBEDDINGS = f"{LANGUAGE}.embed_tokens.weight"
HEAD = "lm_head.weight"

QKV = Split("attention.qkv_proj", ("attention.q_proj", "attention.k_proj", "attention.v_proj"))
INTERN_BLOCK = {  # published -> ours
    "attn.k_norm": "attention.k_norm",
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.qkv": "attention.qkv_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def clip_rows() -> Iterator[tuple[str, str | None]]:
    """The rows of a CLIP tower."""
    # A table that old versions of transformers stored and that follows from the configuration.
    yield f"{PREFIX}vision_model.embeddings.position_ids", None
    yield f"{PREFIX}vision_model.{{rest}}", f"{TOWER}.{{rest}}"


def intern_rows() -> Iterator[tuple[str, str | None]]:
    """The rows of an InternViT tower."""
    embeddings, layers = f"{PREFIX}embeddings", f"{PREFIX}encoder.layers.{{n}}"
    yield f"{embeddings}.class_embedding", f"{TOWER}.embeddings.cls_token"
    yield f"{embeddings}.position_embedding", f"{TOWER}.embeddings.position_embeddings"
    yield f"{embeddings}.patch_embedding.{{rest}}", f"{TOWER}.embeddings.patch_embeddings.projection.{{rest}}"
    for theirs, ours in (("ls1", "lambda_1"), ("ls2", "lambda_2")):
        yield f"{layers}.{theirs}", f"{TOWER}.encoder.layer.{{n}}.{ours}"
    for theirs, ours in INTERN_BLOCK.items():
        yield f"{layers}.{theirs}.{{rest}}", f"{TOWER}.encoder.layer.{{n}}.{ours}.{{rest}}"


def language_rows() -> Iterator[tuple[str, str | None]]:
    """The rows of the language model: also those of the bare model that adapters are for."""
    yield "model.layers.{n}.self_attn.rotary_emb.inv_freq", None
    yield "model.rotary_emb.inv_freq", None
    yield "lm_head.weight", HEAD
    yield "model.embed_tokens.weight", EMBEDDINGS
    yield "model.norm.weight", f"{LANGUAGE}.norm.weight"
    yield "model.layers.{rest}", f"{LANGUAGE}.layers.{{rest}}"


def projector_rows(name: str) -> Iterator[tuple[str, str | None]]:
    """The rows of a projector; the standard one is transformers' own module, with names of its own."""
    if name == STANDARD:
        yield "model.mm_projector.0.{rest}", f"{PROJECTOR}.linear_1.{{rest}}"
        yield "model.mm_projector.2.{rest}", f"{PROJECTOR}.linear_2.{{rest}}"
    else:
        yield "model.mm_projector.{rest}", f"{PROJECTOR}.{{rest}}"
    yield "model.image_newline", "model.image_newline"


def published(config: Any) -> KeyTable:
    """The published names of a model with this configuration."""
    is_intern = config.vision_config.model_type == "internvl_vision"
    tower = intern_rows() if is_intern else clip_rows()
    rows = [*tower, *projector_rows(config.projector_type), *language_rows()]
    return KeyTable.of(rows, [QKV] if is_intern else ())


def hub(config: Any) -> KeyTable:
    """The names in llava-hf's files, which versions of transformers before 4.52 wrote."""
    is_clip = config.vision_config.model_type == "clip_vision_model"
    within = "vision_model." if is_clip else ""
    return KeyTable.of(
        (
            ("language_model.lm_head.weight", HEAD),
            ("language_model.model.{rest}", f"{LANGUAGE}.{{rest}}"),
            (f"vision_tower.{within}embeddings.position_ids", None),
            (f"vision_tower.{within}{{rest}}", f"{TOWER}.{{rest}}"),
            ("multi_modal_projector.{rest}", f"{PROJECTOR}.{{rest}}"),
        )
    )


def later_hub(config: Any) -> KeyTable:
    """Our own names, and those that transformers 4.52 and later write: only the tower's may differ."""
    is_clip = config.vision_config.model_type == "clip_vision_model"
    rows: list[tuple[str, str | None]] = []
    if is_clip:
        rows += [(f"{TOWER}.{within}embeddings.position_ids", None) for within in ("vision_model.", "")]
        rows.append((f"{TOWER}.vision_model.{{rest}}", f"{TOWER}.{{rest}}"))
    return KeyTable.of((*rows, ("{rest}", "{rest}")))


def padded(config: Any) -> dict[str, int]:
    """The parameters with rows that published files do not have, and how many rows those have."""
    if config.used_rows == config.text_config.vocab_size:
        return {}
    return dict.fromkeys((EMBEDDINGS, HEAD), config.used_rows)
