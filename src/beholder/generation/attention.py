"""Attention of one new token per row over stored keys and values, without copying or repeating them.

Registered with transformers under a name of its own. Called without a `stored` argument it is transformers'
"sdpa", so a model that is set to it for one forward serves every other caller as before.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "beholder_stored"


class Stored(Protocol):
    """Where the rows of this forward have their keys and values."""

    attended: int

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values, each (1, heads, length, width), of one row at the layer that was updated last."""
        ...


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    stored: Stored | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(rows, heads, 1, width) queries -> (rows, 1, heads, width).

    The query heads that share a key head stand along the length of the query: nothing sees the future in a
    single token, so no mask is needed, and keys are read once per group.
    """
    if stored is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, heads, _, width = query.shape
    stored.attended += 1
    outputs: list[Tensor] = []
    for index in range(rows):
        keys, values = stored.row(index)
        folded = query[index].view(1, keys.shape[1], -1, width)
        output = scaled_dot_product_attention(folded, keys, values, scale=scaling)
        outputs.append(output.view(1, 1, heads, -1))
    return (outputs[0] if rows == 1 else torch.cat(outputs)), None


def register() -> None:
    """Make the name known to transformers; again does no harm."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention_configs(model: nn.Module) -> list[Any]:
    """The configurations that the decoder's attention layers read their implementation from."""
    found = {
        id(module.config): module.config
        for module in model.modules()
        if hasattr(module, "layer_idx") and hasattr(module, "config")
    }
    return list(found.values())


@contextmanager
def implementation(configs: list[Any], name: str) -> Generator[None]:
    """Let the layers attend by this name meanwhile."""
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            config._attn_implementation = old
