"""Second copies of weight matrices, in the order in which oneDNN's kernels read them on the CPU.

PyTorch's own linear layer brings a matrix into that order again at every call, which at one or a few rows
costs more than the product. The model keeps its weights as they are: a layer computes from its copy only
inside `PackedWeights.used()`. Results are those of the layer to the last bits: equal in bfloat16, another
order of sums in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from beholder.core.errors import ConfigError
from beholder.core.narrow_linear import is_narrow
from beholder.generation.cache import device_memory

log = logging.getLogger("beholder")

# The smallest matrix, in numbers, whose copy was measured to be faster at 1 to 16 rows: in bfloat16 any
# (1.2 to 2.7 times at one row), in float32 those that no cache holds (1.2 to 1.5; small ones were slower).
SMALLEST = {torch.bfloat16: 1, torch.float32: 2**20}
# The number of rows that a copy is laid out for. float32 gains at one row only with a copy made for it;
# bfloat16 is fastest, at any number of rows, with one that is made for no number in particular.
ROWS_HINT = {torch.bfloat16: None, torch.float32: 1}
# Left to itself, packing may fill memory up to this share, counting weights and keys and values.
LARGEST_SHARE = 0.8
# The same of a model with narrow weights: whoever took those may have no memory to spare.
NARROW_SHARE = 0.2


# A layer, its attributes, and what it computes with instead of its class's forward.
Swap = tuple[nn.Linear, dict[str, Any], Callable[..., Tensor]]


@dataclass
class Copy:
    """The copy of one layer's weight, and the weight it was made of in the state it was then."""

    weight: Tensor
    state: tuple[int, int]
    packed: Tensor


class PackedWeights:
    """The copies of one model, at most `limit` bytes; each is made when its layer first computes with one.

    0 makes none. Left out, `limit` is what all matrices need, without those `spared`, if weights, copies and
    `taken` bytes together fill at most four fifths of the memory, of a model with narrow weights a fifth,
    else 0. ConfigError if a `limit` is given and the model or this PyTorch cannot have copies.
    """

    def __init__(
        self,
        model: nn.Module,
        limit: int | None,
        taken: int = 0,
        *,
        spared: Collection[nn.Module] = (),
    ) -> None:
        self.bytes = self._spared = 0
        self._copies: dict[nn.Linear, Copy] = {}
        layers = [] if limit == 0 else _layers(model)
        if limit and not layers:
            raise ConfigError(
                f"packed_memory is {limit}, and this model has no weights to pack: it needs bfloat16 or "
                "float32 matrices on the CPU, and a PyTorch with oneDNN; leave packed_memory out"
            )
        if limit is None:
            away = set(spared)
            needed = sum(layer.weight.nbytes for layer in layers if layer not in away)
            held = sum(parameter.nbytes for parameter in model.parameters())
            share = NARROW_SHARE if is_narrow(model) else LARGEST_SHARE
            fits = held + needed + taken <= share * device_memory(torch.device("cpu"))
            limit = needed if fits else 0
            self._spared = sum(layer.weight.nbytes for layer in layers if layer in away) if fits else 0
            if needed:
                told = "are made as they are used" if fits else "are not made: they would not fit"
                log.info("second copies of weights, %.2f GiB, %s (packed_memory)", needed / 2**30, told)
        self.limit = limit
        self._forwards: list[Swap] = [
            (layer, layer.__dict__, partial(self._compute, layer)) for layer in layers if limit + self._spared
        ]
        self._of_part: dict[str, list[Swap]] = {}
        self._asked: set[nn.Linear] = set()
        self._may_pack = False

    @property
    def count(self) -> int:
        """How many matrices have a copy."""
        return len(self._copies)

    @contextmanager
    def used(self, part: str, *, pack: bool) -> Generator[None]:
        """Let layers compute from their copies meanwhile; with `pack` those without one get it.

        `part` names what of the model runs: after the first time with `pack` only the layers that then
        computed are considered, for looking at all of them takes time at every step.
        """
        swaps = self._of_part.get(part, self._forwards)
        self._may_pack = pack
        for _, attributes, forward in swaps:
            attributes["forward"] = forward  # found before the class's own
        self._asked.clear()
        try:
            yield
        finally:
            for _, attributes, _ in swaps:
                attributes.pop("forward", None)
        if pack and part not in self._of_part:  # not where it failed on the way
            self._of_part[part] = [swap for swap in swaps if swap[0] in self._asked]

    def spare_nothing(self) -> None:
        """From now on the spared layers, which are not run otherwise any more, may have copies as well."""
        self.limit += self._spared
        self._spared = 0

    def forget(self) -> None:
        """Drop all copies, and what is known of the parts."""
        self._of_part.clear()
        self._copies.clear()
        self.bytes = 0

    def _compute(self, layer: nn.Linear, rows: Tensor) -> Tensor:
        # Another thread may run the model meanwhile, for example to train it: its forward is the plain one.
        if not torch.is_inference_mode_enabled() or not rows.is_contiguous():
            return linear(rows, layer.weight, layer.bias)
        self._asked.add(layer)
        copy = self._copy(layer)
        if copy is None or rows.dtype != copy.dtype:
            return linear(rows, layer.weight, layer.bias)
        return torch.ops.mkldnn._linear_pointwise.default(rows, copy, layer.bias, "none", [], "")

    def _copy(self, layer: nn.Linear) -> Tensor | None:
        """The copy of a layer's weight as it is now, None if it has none."""
        weight = layer.weight
        copy = self._copies.get(layer)
        if copy is not None:
            if copy.weight is weight and copy.state == _state(weight):
                return copy.packed
            del self._copies[layer]
            self.bytes -= copy.weight.nbytes
        if not self._may_pack or not _is_packable(weight) or self.bytes + weight.nbytes > self.limit:
            return None
        packed = torch.ops.mkldnn._reorder_linear_weight.default(weight, ROWS_HINT[weight.dtype])
        self._copies[layer] = Copy(weight, _state(weight), packed)
        self.bytes += weight.nbytes
        return packed


def is_available(dtype: torch.dtype) -> bool:
    """Whether this PyTorch on this processor computes linear layers from copies in that number format."""
    if dtype not in SMALLEST or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _layers(model: nn.Module) -> list[nn.Linear]:
    """Plain linear layers with their class's forward: not those that an adapter or a device map changed."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear)
        and type(module) is nn.Linear
        and "forward" not in module.__dict__
        and _is_packable(module.weight)
    ]


def _is_packable(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and type(weight.data) is Tensor
        and is_available(weight.dtype)
        and weight.numel() >= SMALLEST[weight.dtype]
    )


def _state(weight: Tensor) -> tuple[int, int]:
    """Where the numbers are and how often they were changed there, as far as PyTorch counts it."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version
