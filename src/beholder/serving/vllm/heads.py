"""Attention of vLLM for heads of any width: where its kernels know only some, heads are filled up with zeros.

Zeros add nothing to a product of queries and keys, and the columns that they make of the values are cut off,
so the numbers are the same. Published models need none of it; small ones on a CPU do.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from vllm.model_executor.layers.attention import Attention
from vllm.platforms import current_platform


def kernel_width(width: int) -> int:
    """The narrowest head that vLLM has a kernel for here and that holds one of `width`."""
    if not current_platform.is_cpu():
        return width
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return min(
        (size for size in CPUAttentionBackend.get_supported_head_sizes() if size >= width), default=width
    )


class FilledAttention(torch.nn.Module):
    """`Attention(heads, width, scale, ...)` with the kernel's width inside."""

    def __init__(self, heads: int, width: int, scale: float, *, num_kv_heads: int, **settings: Any) -> None:
        super().__init__()
        self.width, self.inside = width, kernel_width(width)
        self.attention = Attention(heads, self.inside, scale, num_kv_heads=num_kv_heads, **settings)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(rows, heads * width) each -> (rows, heads * width)."""
        if self.inside == self.width:
            return self.attention(query, key, value)
        mixed = self.attention(self._filled(query), self._filled(key), self._filled(value))
        return mixed.unflatten(-1, (-1, self.inside))[..., : self.width].flatten(-2)

    def _filled(self, rows: torch.Tensor) -> torch.Tensor:
        return pad(rows.unflatten(-1, (-1, self.width)), (0, self.inside - self.width)).flatten(-2)
