"""The language model of a LLaVA-1.5, InternVL-Chat or 360VL checkpoint as a vLLM model.

It is vLLM's Llama, opened from a folder that holds towers and projectors as well. Pictures come to it as
embeddings. Runs only inside vLLM's processes.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM

from beholder.serving.vllm.heads import FilledAttention, kernel_width
from beholder.serving.vllm.names import text_weights


class FilledLlamaAttention(LlamaAttention):
    """Llama's attention, whose `forward` it keeps, with heads of a width that vLLM has no kernel for."""

    def __init__(
        self, config: Any, hidden_size: int, num_heads: int, num_kv_heads: int, *,
        max_position_embeddings: int, quant_config: Any, cache_config: Any, prefix: str, bias: bool,
        bias_o_proj: bool, **_: Any,
    ) -> None:  # fmt: skip
        torch.nn.Module.__init__(self)
        ranks = get_tensor_model_parallel_world_size()
        self.head_dim = head_width(config)
        self.max_position_embeddings = max_position_embeddings
        self.q_size = num_heads // ranks * self.head_dim
        self.kv_size = max(1, num_kv_heads // ranks) * self.head_dim
        self.qkv_proj = QKVParallelLinear(
            hidden_size, self.head_dim, num_heads, num_kv_heads, bias=bias, quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )  # fmt: skip
        self.o_proj = RowParallelLinear(
            num_heads * self.head_dim, hidden_size, bias=bias_o_proj, quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )  # fmt: skip
        self._init_rotary_emb(config, quant_config=quant_config)
        self.attn = FilledAttention(
            num_heads // ranks, self.head_dim, self.head_dim**-0.5,
            num_kv_heads=max(1, num_kv_heads // ranks), cache_config=cache_config, quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )  # fmt: skip


class FilledLlamaLayer(LlamaDecoderLayer):
    """Llama's layer around it."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None) -> None:
        super().__init__(vllm_config, prefix, config, FilledLlamaAttention)


class BeholderText(LlamaForCausalLM):
    """Takes the language model's tensors out of a whole checkpoint; vLLM refuses if one is missing."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        width = head_width(vllm_config.model_config.hf_config)
        layer = LlamaDecoderLayer if kernel_width(width) == width else FilledLlamaLayer
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fill the parameters; the names of those that were filled."""
        return super().load_weights(text_weights(weights))


def head_width(config: Any) -> int:
    """How wide a head is."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
