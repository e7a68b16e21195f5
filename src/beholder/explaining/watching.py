"""One forward over prompt and answer, in which the decoder's attention is watched.

Attention is computed step by step for it ("eager"), whatever the model computes it with otherwise. Of every
layer only the rows that chose a token of the answer are kept, so the memory is that of one layer at a time.
Shape letters: K layers, A tokens of the answer, T positions, V words.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from beholder.core.errors import InputError
from beholder.generation.attention import attention_configs, implementation
from beholder.generation.prompt import read_prompt


@dataclass(frozen=True)
class Watched:
    """What one forward told, in float32 on the CPU.

    `attention_KAT` are means over heads; row a is that of the position which chose token a. `slots` are the
    positions of all pictures' slots, in order.
    """

    attention_KAT: Tensor
    logits_AV: Tensor
    slots: Tensor


@torch.inference_mode()
def watch(model: Any, inputs: Mapping[str, Any], said: Sequence[int]) -> Watched:
    """Run the model over a prompt, as its processor made it, and the tokens that it said."""
    ids: Tensor = inputs["input_ids"]
    pictures = read_prompt(model, inputs, digests=False).pictures
    slots = torch.cat([picture.slots for picture in pictures]) if pictures else torch.empty(0).long()
    given = {name: _extended(name, value, ids, said) for name, value in inputs.items()}
    given = {name: _placed(value, model) for name, value in given.items()}
    rows: list[Tensor] = []
    with implementation(attention_configs(model), "eager"), _watching(model, len(said), rows):
        outputs = model(**given, logits_to_keep=len(said), use_cache=False)
    if not rows:
        raise InputError("this model's layers do not tell their attention, so it cannot be shown")
    return Watched(torch.stack(rows), outputs.logits[0].float().cpu(), slots)


def _extended(name: str, value: Any, ids: Tensor, said: Sequence[int]) -> Any:
    """What goes along with every token gets the answer's as well, all but the last, which chose nothing."""
    if not isinstance(value, Tensor) or value.shape != ids.shape or value.is_floating_point():
        return value
    more = torch.tensor([list(said[:-1])], dtype=value.dtype)
    if name != "input_ids":
        # A mask goes on with ones; token types and the like with zeros: an answer is language.
        more = torch.full_like(more, 1 if name == "attention_mask" else 0)
    return torch.cat([value, more], dim=1)


def _placed(value: Any, model: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


@contextmanager
def _watching(model: nn.Module, count: int, rows: list[Tensor]) -> Generator[None]:
    """Meanwhile every attention layer of the decoder adds its (A, T) rows."""

    def take(_module: nn.Module, _arguments: Any, outputs: Any) -> None:
        weights = outputs[1] if isinstance(outputs, tuple) and len(outputs) > 1 else None
        if weights is not None:
            rows.append(weights[0, :, -count:].float().mean(0).cpu())

    layers = [
        module for module in model.modules() if hasattr(module, "layer_idx") and hasattr(module, "config")
    ]
    handles = [layer.register_forward_hook(take) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
