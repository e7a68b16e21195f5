"""A small random trunk, and its slow twin: the same model run by transformers over a cache of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from beholder.generation.native import library as native
from beholder.generation.native.build import build
from beholder.generation.native.formats import LANES
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.parts import parts_of
from beholder.generation.native.trunk import PackedTrunk

BLOCK = 4


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    """Two layers, four heads over two key heads; weights loud enough that tokens differ."""
    settings: dict[str, Any] = {
        "vocab_size": 103,
        "hidden_size": 64,
        "intermediate_size": 152,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}, attn_implementation="eager"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.to(dtype).eval()


@dataclass
class Text:
    """One row: what it has said, and its place in a shared memory."""

    ids: list[int]
    cache: DynamicCache
    blocks: list[int]

    def ranges(self, length: int) -> list[tuple[int, int]]:
        """Where positions 0 to `length` stand: block by block, neighbours not joined."""
        found = []
        for number, block in enumerate(self.blocks):
            count = min(BLOCK, length - number * BLOCK)
            if count > 0:
                found.append((block * BLOCK, block * BLOCK + count))
        return found


def shuffled_texts(
    model: Any, lengths: Sequence[int], extra: int, seed: int = 1
) -> tuple[list[Text], KeyValues]:
    """Texts of these lengths, read by transformers, and their keys and values in blocks in random order."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-(length + extra) // BLOCK) for length in lengths]
    order = (torch.randperm(sum(needed), generator=generator) + 1).tolist()
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (config.num_key_value_heads, (sum(needed) + 1) * BLOCK, width)
    # What nobody may read is no number, so that reading it shows.
    layers = [
        (torch.full(shape, torch.nan, dtype=model.dtype), torch.full(shape, torch.nan, dtype=model.dtype))
        for _ in range(config.num_hidden_layers)
    ]
    texts = []
    for length, count in zip(lengths, needed, strict=True):
        ids = torch.randint(config.vocab_size, (1, length), generator=generator)
        cache = DynamicCache()
        with torch.no_grad():
            if length > 1:
                model(ids[:, :-1], past_key_values=cache, use_cache=True)
        text = Text(ids[0].tolist(), cache, [order.pop() for _ in range(count)])
        for number, (keys, values) in enumerate(layers):
            at = 0
            for first, last in text.ranges(length - 1):
                keys[:, first:last] = cache.layers[number].keys[0, :, at : at + last - first]
                values[:, first:last] = cache.layers[number].values[0, :, at : at + last - first]
                at += last - first
        texts.append(text)
    return texts, KeyValues(layers)


@torch.no_grad()
def slow_scores(model: Any, text: Text) -> Tensor:
    """What transformers says comes after the last id; that id is added to its cache."""
    ids = torch.tensor([text.ids[-1:]])
    return model(ids, past_key_values=text.cache, use_cache=True).logits[0, -1].float()


def native_scores(trunk: Any, texts: Sequence[Text], memory: KeyValues) -> Tensor:
    """What the native step says for all rows at once."""
    return trunk.step(
        [text.ids[-1] for text in texts],
        [len(text.ids) - 1 for text in texts],
        memory,
        [text.ranges(len(text.ids)) for text in texts],
    )


def distance(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, as a part of how far the wanted scores spread."""
    return float((got - wanted).pow(2).mean().sqrt() / wanted.std())


@torch.no_grad()
def as_packed(model: Any, trunk: PackedTrunk) -> Any:
    """A copy of the model whose linears are what the packed ones stand for."""
    twin, parts = copy.deepcopy(model), trunk.parts
    H, mixed, stored = parts.hidden, parts.heads * parts.head_width, parts.key_heads * parts.head_width
    # Blocks of gate and up stand in turns.
    gates = [row // LANES * 2 * LANES + row % LANES for row in range(parts.inner)]
    for number, layer in enumerate(parts_of(twin).layers):
        entered = trunk.unpacked(number, native.ENTER, range(mixed + 2 * stored), H)
        found = dict(zip(("query", "key", "value"), entered.split([mixed, stored, stored]), strict=True))
        found["out"] = trunk.unpacked(number, native.LEAVE, range(H), mixed)
        found["gate"] = trunk.unpacked(number, native.WIDEN, gates, H)
        found["up"] = trunk.unpacked(number, native.WIDEN, [row + LANES for row in gates], H)
        found["down"] = trunk.unpacked(number, native.NARROW, range(H), parts.inner)
        for name, weight in found.items():
            getattr(layer, name).weight.copy_(weight)
    twin.lm_head.weight.copy_(trunk.unpacked(0, native.HEAD, range(parts.vocabulary), H))
    return twin


def ensure_built() -> None:
    """Build what was not built with the package. Without a compiler this fails, and says so."""
    if not native.status().is_built:
        build()
        native.forget()
    assert native.status().is_built, native.status().reason
