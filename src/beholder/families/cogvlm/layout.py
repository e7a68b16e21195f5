"""The published names of CogVLM's tensors and ours, and those of its SAT checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from beholder.checkpoints.keys import KeyTable
from beholder.checkpoints.splits import Split

EXPERTS = ("language", "vision")
PROJECTOR = {  # published -> ours, below model.vision.linear_proj and model.multi_modal_projector
    "linear_proj.weight": "enter.weight",
    "norm1.weight": "norm.weight",
    "norm1.bias": "norm.bias",
    "gate_proj.weight": "gate_proj.weight",
    "dense_h_to_4h.weight": "up_proj.weight",
    "dense_4h_to_h.weight": "down_proj.weight",
}
TOWER_LAYER = {  # published -> ours, below the layers of either tower; each has a weight and a bias
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "attention.query_key_value": "attention.qkv_proj",
    "attention.dense": "attention.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
SPLITS = (
    Split("attention.qkv_proj", tuple(f"attention.{part}_proj" for part in "qkv")),
    *(
        Split(
            f"self_attn.{expert}_expert.qkv_proj",
            tuple(f"self_attn.{expert}_expert.{part}_proj" for part in "qkv"),
        )
        for expert in EXPERTS
    ),
)


def tower_rows() -> Iterator[tuple[str, str | None]]:
    """The vision tower, the adapter and the two markers."""
    theirs, ours = "model.vision", "model.vision_tower"
    yield f"{theirs}.boi", "model.multi_modal_projector.begin"
    yield f"{theirs}.eoi", "model.multi_modal_projector.end"
    for published, name in PROJECTOR.items():
        yield f"{theirs}.linear_proj.{published}", f"model.multi_modal_projector.{name}"
    yield f"{theirs}.patch_embedding.cls_embedding", f"{ours}.class_embedding"
    yield f"{theirs}.patch_embedding.position_embedding.weight", f"{ours}.position_embedding.weight"
    for kind in ("weight", "bias"):
        yield f"{theirs}.patch_embedding.proj.{kind}", f"{ours}.patch_embedding.{kind}"
        for published, name in TOWER_LAYER.items():
            yield (
                f"{theirs}.transformer.layers.{{n}}.{published}.{kind}",
                f"{ours}.layers.{{n}}.{name}.{kind}",
            )


def decoder_rows() -> Iterator[tuple[str, str | None]]:
    """The language model with both experts."""
    theirs, ours = "model.layers.{n}", "model.language_model.layers.{n}"
    # A table that old versions of transformers stored and that follows from the configuration.
    yield f"{theirs}.self_attn.rotary_emb.inv_freq", None
    yield "lm_head.weight", "lm_head.weight"
    yield "model.embed_tokens.weight", "model.language_model.embed_tokens.weight"
    yield "model.norm.weight", "model.language_model.norm.weight"
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{theirs}.{norm}.weight", f"{ours}.{norm}.weight"
    for expert in EXPERTS:
        attention, mlp = f"{ours}.self_attn.{expert}_expert", f"{ours}.mlp.{expert}_expert"
        yield f"{theirs}.self_attn.{expert}_expert_query_key_value.weight", f"{attention}.qkv_proj.weight"
        yield f"{theirs}.self_attn.{expert}_expert_dense.weight", f"{attention}.o_proj.weight"
        for linear in ("gate_proj", "up_proj", "down_proj"):
            yield f"{theirs}.mlp.{expert}_mlp.{linear}.weight", f"{mlp}.{linear}.weight"


PUBLISHED = KeyTable.of([*tower_rows(), *decoder_rows()], SPLITS)
