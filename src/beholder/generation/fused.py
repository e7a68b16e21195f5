"""Linears that get the same inputs computed as one: query, key and value; gate and up.

At one row a GPU spends as long on starting a small product as on its weights; two of every seven are spared.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from beholder.generation.native.parts import known_layers
from beholder.generation.native.watch import are_listened_to

# By the module of a layer that calls them, in the order in which it does.
TOGETHER = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}


class Fusion:
    """Some linears as one. Nothing is held twice: their weights become views of its rows."""

    @torch.no_grad()
    def __init__(self, linears: list[nn.Linear]) -> None:
        self.linears = linears
        self.sizes = [one.out_features for one in linears]
        self.weight = torch.cat([one.weight.data for one in linears])
        for one, rows in zip(linears, self.weight.split(self.sizes), strict=True):
            one.weight.data = rows
        biases: list[Tensor] = [one.bias for one in linears if one.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        if self.bias is not None:
            for bias, rows in zip(biases, self.bias.split(self.sizes), strict=True):
                bias.data = rows
        self._places = self._found()
        # Always the same objects: a compiled step looks whether they are.
        self.forwards = [partial(self.part, index) for index in range(len(linears))]
        self._asked: Tensor | None = None
        self._rest: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """The fused weight, and the bias where there is one."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def is_whole(self) -> bool:
        """Whether the linears still have these weights."""
        return self._found() == self._places

    def _found(self) -> list[int]:
        kept = [one.weight for one in self.linears] + [one.bias for one in self.linears]
        return [0 if tensor is None else tensor.data_ptr() for tensor in kept]

    def part(self, index: int, inputs: Tensor) -> Tensor:
        """What linear `index` makes of the inputs; the first computes for all that get the very same."""
        if index == 0:
            parts = linear(inputs, self.weight, self.bias).split(self.sizes, dim=-1)
            self._asked, self._rest = inputs, parts[1:]
            return parts[0]
        if inputs is not self._asked:  # another thread has asked in between
            return linear(inputs, self.linears[index].weight, self.linears[index].bias)
        found = self._rest[index - 1]
        if index + 1 == len(self.sizes):
            self._asked, self._rest = None, ()
        return found


class FusedLinears:
    """All that can be fused of a model whose decoder is of a class that calls them so; nothing of others."""

    def __init__(self, model: Any) -> None:
        groups = [
            [getattr(getattr(layer, above), name) for name in names]
            for layer in known_layers(model)
            for above, names in TOGETHER.items()
        ]
        self.fusions = [Fusion(linears) for linears in groups if _fit(linears)]

    @contextmanager
    def used(self) -> Generator[None]:
        """Let the linears compute together meanwhile, but those on which somebody listens.

        What is not whole any more is given up: its matrix would be a second copy.
        """
        self.fusions = [fusion for fusion in self.fusions if fusion.is_whole()]
        chosen = [fusion for fusion in self.fusions if not are_listened_to(fusion.linears)]
        for fusion in chosen:
            for one, forward in zip(fusion.linears, fusion.forwards, strict=True):
                one.__dict__["forward"] = forward  # found before the class's own
        try:
            yield
        finally:
            for fusion in chosen:
                for one in fusion.linears:
                    del one.__dict__["forward"]


def _fit(linears: list[nn.Linear]) -> bool:
    if not all(map(_is_plain, linears)):
        return False
    kinds = {(one.weight.shape[1], one.weight.dtype, one.weight.device, one.bias is None) for one in linears}
    return len(kinds) == 1


def _is_plain(one: nn.Module) -> bool:
    """A linear of PyTorch with a dense weight of its own, on which nobody listens."""
    if type(one) is not nn.Linear or type(one.weight.data) is not Tensor or are_listened_to([one]):
        return False
    return one.weight.device.type != "meta"
