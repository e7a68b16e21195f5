"""A tower of transformers up to the layer whose features are used: those above it would run for nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tower_layers(tower: Any) -> Any:
    """The layers of CLIP's or InternViT's encoder."""
    encoder = tower.encoder
    return encoder.layers if hasattr(encoder, "layers") else encoder.layer


def tower_depth(tower: Any, layer: Any) -> int | None:
    """How many layers run for the hidden states of that number, which may count from the end.

    None where it names no single layer, or where the tower is set to give out more than its features.
    """
    layers = len(tower_layers(tower))
    config = tower.config
    gives_more = any(getattr(config, f"output_{what}", False) for what in ("hidden_states", "attentions"))
    if not isinstance(layer, int) or gives_more:
        return None
    depth = layers + 1 + layer if layer < 0 else layer
    return depth if 0 <= depth <= layers else None


def run_tower(tower: Any, pixels: Tensor, depth: int) -> Tensor:
    """(views, 3, S, S) -> (views, 1 + patches, width) after `depth` layers; row 0 is the class token's."""
    hidden = tower.embeddings(pixels)
    if hasattr(tower, "pre_layrnorm"):  # CLIP's, under the name that its checkpoints have
        hidden = tower.pre_layrnorm(hidden)
        for layer in tower_layers(tower)[:depth]:
            hidden = layer(hidden, None)
        return hidden
    for layer in tower_layers(tower)[:depth]:
        hidden = layer(hidden)
    return hidden
