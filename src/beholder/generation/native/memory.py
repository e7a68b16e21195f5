"""The engine's keys and values as the native step reads and writes them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    from beholder.generation.cache import Store

# What they may be stored as, and how native.h numbers it.
STORED = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
Pair = tuple[Tensor, Tensor]


class KeyValues:
    """Per layer keys and values, (key heads, places, head width) each; kept alive as long as this is.

    Those in int8 have `scales`, as many pairs of float32 (key heads, places). ConfigError where layers differ
    in shape or dtype, or are no plain memory of the CPU in float32, bfloat16 or int8.
    """

    def __init__(self, layers: Sequence[Pair], scales: Sequence[Pair] | None = None) -> None:
        if not layers:
            raise ConfigError("there is no layer of keys and values")
        first = layers[0][0]
        for number, pair in enumerate(layers):
            for tensor in pair:
                if tensor.shape != first.shape or tensor.dtype != first.dtype or tensor.ndim != 3:
                    raise ConfigError(
                        f"keys and values of layer {number} are {tensor.dtype} of {tuple(tensor.shape)}, and "
                        f"those before {first.dtype} of {tuple(first.shape)}"
                    )
                if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.dtype not in STORED:
                    raise ConfigError(
                        f"native decode reads contiguous float32, bfloat16 or int8 keys and values on the "
                        f"CPU, and those of layer {number} are {tensor.dtype} on {tensor.device}"
                    )
        self.layers = tuple(layers)
        self.scales = tuple(scales or ())
        self.key_heads, self.places, self.width = first.shape
        self.stored = STORED[first.dtype]
        self._check_scales(first)
        self.keys, self.values = _pointers(self.layers, 0), _pointers(self.layers, 1)
        self.key_scales, self.value_scales = _pointers(self.scales, 0), _pointers(self.scales, 1)

    @classmethod
    def of(cls, store: Store) -> KeyValues:
        """The engine's memory, all of which is taken with this."""
        pairs = list(zip(*store.whole(), strict=True))
        layers = [(key.numbers, value.numbers) for key, value in pairs]
        scales = [
            (key.scales, value.scales)
            for key, value in pairs
            if key.scales is not None and value.scales is not None
        ]
        return cls(layers, scales)

    def _check_scales(self, first: Tensor) -> None:
        wanted = len(self.layers) if first.dtype == torch.int8 else 0
        if len(self.scales) != wanted:
            raise ConfigError(
                f"{len(self.layers)} layers of {first.dtype} keys and values come with scales of "
                f"{len(self.scales)}; int8 needs one pair for each layer, and nothing else has any"
            )
        for number, pair in enumerate(self.scales):
            for tensor in pair:
                is_plain = tensor.device.type == "cpu" and tensor.is_contiguous()
                if tensor.shape != first.shape[:2] or tensor.dtype != torch.float32 or not is_plain:
                    raise ConfigError(
                        f"scales of layer {number} are {tensor.dtype} of {tuple(tensor.shape)}; they must be "
                        f"contiguous float32 of {tuple(first.shape[:2])} on the CPU"
                    )


def _pointers(layers: Sequence[Pair], which: int) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(layers))(*(pair[which].data_ptr() for pair in layers))
