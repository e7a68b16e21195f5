"""CogVLM's eye: EVA2-CLIP-E without its last layer, and the gated adapter to the language model.

Follows models/eva_clip_model.py and models/cogvlm_model.py (THUDM/CogVLM, 8bd8be9).
Shape letters: P pictures, L patches, C tower width, H language width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from beholder.families.cogvlm.config import CogVLMConfig, CogVLMVisionConfig

ADAPTER_NORM_EPS = 1e-5  # not the tower's: the adapter's norm was made with the library's own default


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """(batch, heads, length, width) attention step by step, with its weights; the softmax is in float32."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CogVLMVisionAttention(nn.Module):
    """Every patch sees every other."""

    is_causal = False

    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = 1
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(P, L, C) -> (P, L, C)."""
        heads = (*hidden.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden).view(heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "eager", eager_attention
        )
        mixed, _ = attend(self, query, key, value, None, dropout=0.0, scaling=self.head_dim**-0.5)
        out = self.out_proj(mixed.reshape(*hidden.shape[:-1], -1))
        return nn.functional.dropout(out, p=self.config.dropout, training=self.training)


class CogVLMVisionMLP(nn.Module):
    """Two linear layers."""

    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(P, L, C) -> (P, L, C)."""
        return self.fc2(self.act(self.fc1(hidden)))


class CogVLMVisionLayer(GradientCheckpointingLayer):
    """A layer that norms what each branch gives, before it is added: neither pre-norm nor post-norm."""

    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        self.attention = CogVLMVisionAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CogVLMVisionMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(P, L + 1, C) -> (P, L + 1, C)."""
        hidden = hidden + self.attention_norm(self.attention(hidden))
        return hidden + self.mlp_norm(self.mlp(hidden))


class CogVLMVisionTower(PreTrainedModel):
    """Pixels to patch features; there is no norm at the end."""

    config_class = CogVLMVisionConfig
    config: CogVLMVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["CogVLMVisionLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__(config)
        width, side = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=side, stride=side)
        self.class_embedding = nn.Parameter(torch.zeros(1, width))
        self.position_embedding = nn.Embedding(config.patches + 1, width)
        self.layers = nn.ModuleList(CogVLMVisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CogVLMVisionTower):
            nn.init.normal_(module.class_embedding, std=self.config.initializer_range)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(P, 3, S, S) -> (P, L + 1, C): the class vector, then the patches row by row, with positions."""
        pixels = pixel_values.to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(P, 3, S, S) -> (P, L, C); the class vector is left out."""
        hidden = self.embed(pixel_values)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden[:, 1:]


class CogVLMProjector(nn.Module):
    """The gated adapter, and the two learned vectors that stand around every picture."""

    def __init__(self, config: CogVLMConfig) -> None:
        super().__init__()
        width, inner = config.text_config.hidden_size, config.text_config.intermediate_size
        self.enter = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=ADAPTER_NORM_EPS)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.begin = nn.Parameter(torch.zeros(1, 1, width))
        self.end = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, patches_PLC: Tensor) -> Tensor:
        """(P, L, C) -> (P, L + 2, H); the markers do not pass through the adapter."""
        entered = nn.functional.gelu(self.norm(self.enter(patches_PLC)))
        gated = nn.functional.silu(self.gate_proj(entered)) * self.up_proj(entered)
        slots = self.down_proj(gated)
        pictures = len(slots)
        return torch.cat([self.begin.expand(pictures, -1, -1), slots, self.end.expand(pictures, -1, -1)], 1)
