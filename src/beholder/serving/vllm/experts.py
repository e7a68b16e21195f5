"""CogVLM's decoder as a vLLM model: two experts in each layer, one attention, and prompts that say whose row
is whose (see `marks.py`). Runs only inside vLLM's processes, eagerly: which rows an expert gets is known only
when they are there.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import SupportsPP
from vllm.model_executor.models.llama import LlamaMLP
from vllm.model_executor.models.utils import AutoWeightsLoader, PPMissingLayer, WeightsMapper, make_layers
from vllm.sequence import IntermediateTensors

from beholder.checkpoints.splits import targets
from beholder.families.cogvlm.decoder import CogVLMRMSNorm
from beholder.families.cogvlm.layout import PUBLISHED
from beholder.serving.vllm.heads import FilledAttention
from beholder.serving.vllm.marks import without_marks
from beholder.serving.vllm.names import EMBEDDING_WIDTH, text_name

Rows = Callable[[Tensor], Tensor]
FUSED = {
    ".q_proj": (".qkv_proj", "q"), ".k_proj": (".qkv_proj", "k"), ".v_proj": (".qkv_proj", "v"),
    ".gate_proj": (".gate_up_proj", 0), ".up_proj": (".gate_up_proj", 1),
}  # fmt: skip


class Experts:
    """Which rows of a step each expert computes; None of `vision` where there is no patch among them."""

    def __init__(self, is_vision: Tensor) -> None:
        self.vision = is_vision.nonzero().squeeze(1)
        self.language = is_vision.logical_not().nonzero().squeeze(1)

    def apply(self, rows: Tensor, language: Rows, vision: Rows) -> Tensor:
        """(rows, width) through the two experts: each computes its own rows, if it has any."""
        if not len(self.vision):
            return language(rows)
        if not len(self.language):
            return vision(rows)
        seen = vision(rows[self.vision])
        result = seen.new_empty((len(rows), seen.shape[1]))
        result[self.vision] = seen
        result[self.language] = language(rows[self.language])
        return result


class AttentionExpert(nn.Module):
    """One expert's projections around the shared attention."""

    def __init__(self, config: Any, quant_config: Any, prefix: str) -> None:
        super().__init__()
        width, heads = getattr(config, EMBEDDING_WIDTH), config.num_attention_heads
        self.qkv_proj = QKVParallelLinear(
            width, config.head_dim, heads, heads, bias=False, quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )  # fmt: skip
        self.o_proj = RowParallelLinear(
            width, width, bias=False, quant_config=quant_config, prefix=f"{prefix}.o_proj"
        )

    def enter(self, rows: Tensor) -> Tensor:
        """Queries, keys and values side by side."""
        return self.qkv_proj(rows)[0]

    def leave(self, rows: Tensor) -> Tensor:
        """Back to the width of the embedding."""
        return self.o_proj(rows)[0]


class ExpertAttention(nn.Module):
    """Two sets of projections, one attention."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config, quant_config = vllm_config.model_config.hf_config, vllm_config.quant_config
        self.language_expert = AttentionExpert(config, quant_config, f"{prefix}.language_expert")
        self.vision_expert = AttentionExpert(config, quant_config, f"{prefix}.vision_expert")
        heads = config.num_attention_heads // get_tensor_model_parallel_world_size()
        self.rotary_emb = get_rope(
            config.head_dim, max_position=config.max_position_embeddings,
            rope_parameters=config.rope_parameters, is_neox_style=True,
        )  # fmt: skip
        self.attn = FilledAttention(
            heads, config.head_dim, config.head_dim**-0.5, num_kv_heads=heads,
            cache_config=vllm_config.cache_config, quant_config=quant_config, prefix=f"{prefix}.attn",
        )  # fmt: skip

    def forward(self, positions: Tensor, rows: Tensor, experts: Experts) -> Tensor:
        """(rows, width) -> (rows, width)."""
        mixed = experts.apply(rows, self.language_expert.enter, self.vision_expert.enter)
        query, key, value = (part.contiguous() for part in mixed.chunk(3, -1))
        query, key = self.rotary_emb(positions, query, key)
        mixed = self.attn(query, key, value)
        return experts.apply(mixed, self.language_expert.leave, self.vision_expert.leave)


class ExpertMLP(nn.Module):
    """Two MLPs; a row goes through one of them."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.language_expert, self.vision_expert = (
            LlamaMLP(
                getattr(config, EMBEDDING_WIDTH), config.intermediate_size, config.hidden_act,
                quant_config=vllm_config.quant_config, prefix=f"{prefix}.{name}",
            )
            for name in ("language_expert", "vision_expert")
        )  # fmt: skip

    def forward(self, rows: Tensor, experts: Experts) -> Tensor:
        """(rows, width) -> (rows, width)."""
        return experts.apply(rows, self.language_expert, self.vision_expert)


class ExpertLayer(nn.Module):
    """A pre-norm layer in Llama's order."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        width, epsilon = getattr(config, EMBEDDING_WIDTH), config.rms_norm_eps
        self.self_attn = ExpertAttention(vllm_config, f"{prefix}.self_attn")
        self.mlp = ExpertMLP(vllm_config, f"{prefix}.mlp")
        self.input_layernorm = CogVLMRMSNorm(width, epsilon)
        self.post_attention_layernorm = CogVLMRMSNorm(width, epsilon)

    def forward(self, positions: Tensor, rows: Tensor, experts: Experts) -> Tensor:
        """(rows, width) -> (rows, width)."""
        rows = rows + self.self_attn(positions, self.input_layernorm(rows), experts)
        return rows + self.mlp(self.post_attention_layernorm(rows), experts)


class ExpertModel(nn.Module):
    """Rows with their marks in, last hidden states out."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.width, self.marked = getattr(config, EMBEDDING_WIDTH), config.hidden_size
        group = get_pp_group()
        self.embed_tokens = (
            VocabParallelEmbedding(config.vocab_size, self.width) if group.is_first_rank else PPMissingLayer()
        )
        self.start_layer, self.end_layer, self.layers = make_layers(
            config.num_hidden_layers,
            lambda prefix: ExpertLayer(vllm_config, prefix),
            prefix=f"{prefix}.layers",
        )
        self.norm = CogVLMRMSNorm(self.width, config.rms_norm_eps) if group.is_last_rank else PPMissingLayer()

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Rows of the answer: language, where they are."""
        return pad(self.embed_tokens(input_ids), (0, self.marked - self.width))

    def forward(self, marked: Tensor, positions: Tensor) -> Tensor:
        """(rows, marked width) -> (rows, width), or with their marks where other ranks go on."""
        rows, is_vision, shifts = without_marks(marked, self.width)
        experts = Experts(is_vision)
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            rows = layer(positions + shifts, rows, experts)
        if get_pp_group().is_last_rank:
            return self.norm(rows)
        return torch.cat([rows, marked[:, self.width :]], dim=1)


class BeholderExperts(nn.Module, SupportsPP):
    """CogVLM's language model with its head."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_stacked=FUSED)

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.model = ExpertModel(vllm_config, f"{prefix}.model".lstrip("."))
        self.lm_head: nn.Module = PPMissingLayer()
        if get_pp_group().is_last_rank:
            width = getattr(config, EMBEDDING_WIDTH)
            self.lm_head = ParallelLMHead(config.vocab_size, width, prefix=f"{prefix}.lm_head".lstrip("."))
            self.logits_processor = LogitsProcessor(config.vocab_size)

    def make_empty_intermediate_tensors(
        self, batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> IntermediateTensors:
        """What comes from the rank before, while nothing has come."""
        rows = torch.zeros((batch_size, self.config.hidden_size), dtype=dtype, device=device)
        return IntermediateTensors({"hidden_states": rows})

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """See `ExpertModel`."""
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """The last hidden states of a step's rows, or what the next rank goes on with."""
        if intermediate_tensors is not None:
            marked = intermediate_tensors["hidden_states"]
        elif inputs_embeds is not None:
            marked = inputs_embeds
        else:
            assert input_ids is not None
            marked = self.embed_input_ids(input_ids)
        rows = self.model(marked, positions)
        return rows if get_pp_group().is_last_rank else IntermediateTensors({"hidden_states": rows})

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """(rows, width) -> (rows, vocabulary)."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill the parameters from a whole checkpoint; the names of those that were filled."""
        return AutoWeightsLoader(self).load_weights(expert_weights(weights), mapper=self.hf_to_vllm_mapper)


def expert_weights(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The decoder's tensors of a checkpoint as published or of ours, each expert's projections apart."""
    for name, weight in weights:
        try:
            parts = targets(PUBLISHED, name)
        except KeyError:
            parts = (name,)
        for part, tensor in zip(parts, weight.chunk(len(parts)) if parts else (), strict=True):
            if (inside := text_name(part)) is not None:
                yield inside, tensor
