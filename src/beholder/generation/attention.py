"""Attention of one new token per row over stored keys and values, which are never repeated per query head.

Registered with transformers under a name of its own. Called without a `stored` argument it is transformers'
"sdpa", so a model that is set to it for one forward serves every other caller as before.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "beholder_stored"


class Stored(Protocol):
    """Where the rows of this forward have their keys and values."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
    ) -> Tensor:
        """(rows, heads, 1, width) queries -> (rows, 1, heads, width); `key` and `value` are what the cache
        gave the layer."""
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
    """(rows, heads, 1, width) queries -> (rows, 1, heads, width)."""
    if stored is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return stored.attend(query, key, value, attention_mask, scaling), None


def folded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """One token per row: (rows, heads, 1, width) queries -> (rows, 1, heads, width).

    The query heads that share a key head stand along the length of the query: a single token sees everything
    that is stored, so a `mask` (rows, 1, 1, length) holds for all of them, and keys are read once per group.
    """
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(rows, 1, heads, -1)


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


# Where transformers' configurations keep what their property `_attn_implementation` gives; the property's
# setter goes through all parts of a configuration, which takes a tenth of what a step may take at all.
KEPT = "_attn_implementation_internal"


@contextmanager
def implementation(configs: list[Any], name: str) -> Generator[None]:
    """Let the layers attend by this name meanwhile."""
    before = [config._attn_implementation for config in configs]
    for config in configs:
        _set(config, name)
    try:
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            _set(config, old)


def _set(config: Any, name: str) -> None:
    if KEPT in vars(config):
        vars(config)[KEPT] = name
    else:
        config._attn_implementation = name
