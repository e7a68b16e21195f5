"""CogVLM's decoder: Llama's, with a language and a vision expert in place of every linear layer.

Attention, norms, embedding and head are shared; so one causal softmax joins text and patches. Follows
models/mixin.py and models/cogvlm_model.py (THUDM/CogVLM, 8bd8be9).
Shape letters: B batch, S sequence, H width, D head width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from beholder.families.cogvlm.config import CogVLMTextConfig
from beholder.families.cogvlm.rotary import rotary_tables, rotate
from beholder.families.cogvlm.routing import Routing
from beholder.families.cogvlm.tower import eager_attention
from beholder.generation.native.parts import LayerParts, TrunkParts


class CogVLMRMSNorm(nn.Module):
    """Llama's norm, except that the weight is multiplied in before rounding back and not after."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = eps

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        exact = hidden.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight.float() * exact).to(hidden.dtype)


class AttentionExpert(nn.Module):
    """One expert's projections around the shared attention."""

    def __init__(self, config: CogVLMTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def enter(self, rows: Tensor) -> Tensor:
        """(..., H) -> (..., 3 H): queries, keys and values side by side."""
        return torch.cat([self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)], dim=-1)


class MLPExpert(nn.Module):
    """One expert's gated MLP."""

    def __init__(self, config: CogVLMTextConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, rows: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return self.down_proj(self.act(self.gate_proj(rows)) * self.up_proj(rows))


class CogVLMAttention(nn.Module):
    """Two sets of projections, one attention."""

    is_causal = True

    def __init__(self, config: CogVLMTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.language_expert = AttentionExpert(config)
        self.vision_expert = AttentionExpert(config)

    def project(self, hidden: Tensor, routing: Routing | None) -> list[Tensor]:
        """(B, S, H) -> queries, keys and values, each (B, heads, S, D)."""
        if routing is None:
            expert = self.language_expert
            mixed = [expert.q_proj(hidden), expert.k_proj(hidden), expert.v_proj(hidden)]
        else:
            mixed = routing.apply(hidden, self.language_expert.enter, self.vision_expert.enter).chunk(3, -1)
        return [part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in mixed]

    def forward(
        self,
        hidden: Tensor,
        routing: Routing | None,
        tables: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, S, H) -> (B, S, H), and the attention weights where the implementation gives them."""
        query, key, value = self.project(hidden, routing)
        query, key = rotate(query, *tables), rotate(key, *tables)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "eager", eager_attention
        )
        mixed, weights = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        mixed = mixed.reshape(*hidden.shape[:2], -1)
        if routing is None:
            return self.language_expert.o_proj(mixed), weights
        return routing.apply(mixed, self.language_expert.o_proj, self.vision_expert.o_proj), weights


class CogVLMMLP(nn.Module):
    """Two MLPs; a row goes through one of them."""

    def __init__(self, config: CogVLMTextConfig) -> None:
        super().__init__()
        self.language_expert = MLPExpert(config)
        self.vision_expert = MLPExpert(config)

    def forward(self, hidden: Tensor, routing: Routing | None) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        if routing is None:
            return self.language_expert(hidden)
        return routing.apply(hidden, self.language_expert, self.vision_expert)


class CogVLMDecoderLayer(GradientCheckpointingLayer):
    """A pre-norm layer in Llama's order."""

    def __init__(self, config: CogVLMTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = CogVLMAttention(config, layer_idx)
        self.mlp = CogVLMMLP(config)
        self.input_layernorm = CogVLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = CogVLMRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        routing: Routing | None = None,
        tables: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states),
            routing=routing,
            tables=tables,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states), routing)


class CogVLMTextModel(PreTrainedModel):
    """Embeddings in, last hidden states out."""

    config_class = CogVLMTextConfig
    config: CogVLMTextConfig
    base_model_prefix = "model"
    input_modalities = ["text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["CogVLMDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": CogVLMDecoderLayer, "attentions": CogVLMAttention}  # noqa: RUF012

    def __init__(self, config: CogVLMTextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            CogVLMDecoderLayer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = CogVLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def trunk_parts(self, head: nn.Module) -> TrunkParts:
        """What runs once pictures are read, for native decode: the language expert of every layer."""
        config = self.config

        def rotary(positions: Tensor) -> tuple[Tensor, Tensor]:
            tables = rotary_tables(positions[None], config.head_dim, config.rope_base, config.rotary_tables)
            cosines, sines = (table.to(self.dtype)[0, :, : config.head_dim // 2] for table in tables)
            return cosines, sines

        layers: list[LayerParts] = []
        for layer in cast("list[Any]", self.layers):
            attention, mlp = layer.self_attn.language_expert, layer.mlp.language_expert
            layers.append(
                LayerParts(
                    attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
                    mlp.gate_proj, mlp.up_proj, mlp.down_proj,
                    layer.input_layernorm, layer.post_attention_layernorm,
                )
            )  # fmt: skip
        heads, width = config.num_attention_heads, config.head_dim
        return TrunkParts(
            embedding=self.embed_tokens, layers=tuple(layers), last_norm=self.norm, head=head, heads=heads,
            key_heads=heads, head_width=width, epsilon=config.rms_norm_eps, rotary=rotary,
        )  # fmt: skip

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        vision_expert_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """(B, S, H) with rotary positions (B, S) and, where there is a picture, who computes what (B, S)."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        # Causal in the sequence, not in the positions: those of patches repeat, as if rows were packed.
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        routing = None if vision_expert_mask is None else Routing.of(vision_expert_mask)
        cosines, sines = rotary_tables(
            position_ids, self.config.head_dim, self.config.rope_base, self.config.rotary_tables
        )
        tables = tuple(table.to(inputs_embeds.dtype)[:, None] for table in (cosines, sines))
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                routing=routing,
                tables=tables,
                attention_mask=mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )
