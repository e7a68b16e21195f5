"""The published names of 360VL's tensors and ours."""

from __future__ import annotations

from collections.abc import Iterator

from beholder.checkpoints.keys import KeyTable

PROJECTORS = {  # published -> ours
    "mm_projector_ctt": "corner_abstractor",
    "mm_projector_ori": "whole_abstractor",
    "mm_projector": "single_abstractor",
}
# `bn` is what timm calls the norm of a convolution; in 360VL all of them are layer norms.
BLOCK = {
    "conv1.conv.weight": "enter.conv.weight",
    "conv1.bn.weight": "enter.norm.weight",
    "conv1.bn.bias": "enter.norm.bias",
    "conv2.conv.weight": "mix.conv.weight",
    "conv2.bn.weight": "mix.norm.weight",
    "conv2.bn.bias": "mix.norm.bias",
    "se.fc1.weight": "gate.squeeze.weight",
    "se.fc1.bias": "gate.squeeze.bias",
    "se.fc2.weight": "gate.expand.weight",
    "se.fc2.bias": "gate.expand.bias",
    "conv3.conv.weight": "leave.conv.weight",
    "conv3.bn.weight": "leave.norm.weight",
    "conv3.bn.bias": "leave.norm.bias",
    "downsample.conv.weight": "shortcut.conv.weight",
    "downsample.bn.weight": "shortcut.norm.weight",
    "downsample.bn.bias": "shortcut.norm.bias",
}
STAGES = {"net.0": "stage1", "net.2": "stage2"}  # net.1 is the pooling


def projector_rows(published: str, ours: str) -> Iterator[tuple[str, str]]:
    """The rows of one C-Abstractor under its two prefixes."""
    yield f"{published}.pos_emb", f"{ours}.position_table"
    yield f"{published}.eos_tokens", f"{ours}.eos_tokens"
    yield f"{published}.prenorm.{{rest}}", f"{ours}.prenorm.{{rest}}"
    yield f"{published}.readout.{{rest}}", f"{ours}.readout.{{rest}}"
    for theirs, mine in STAGES.items():
        for part, name in BLOCK.items():
            yield f"{published}.{theirs}.b{{n}}.{part}", f"{ours}.{mine}.block{{n}}.{name}"


def rows() -> Iterator[tuple[str, str | None]]:
    """All rows; a model has those whose modules it has."""
    # Tables that old versions of transformers stored and that follow from the configuration.
    yield "model.layers.{n}.self_attn.rotary_emb.inv_freq", None
    yield "model.vision_tower.vision_tower.vision_model.embeddings.position_ids", None
    yield "lm_head.weight", "lm_head.weight"
    yield "model.embed_tokens.weight", "model.language_model.embed_tokens.weight"
    yield "model.norm.weight", "model.language_model.norm.weight"
    yield "model.layers.{rest}", "model.language_model.layers.{rest}"
    yield "model.vision_tower.vision_tower.vision_model.{rest}", "model.vision_tower.{rest}"
    for published, ours in PROJECTORS.items():
        yield from projector_rows(f"model.{published}", f"model.{ours}")


PUBLISHED = KeyTable.of(rows())
TOWER_PREFIX = "model.vision_tower."
