"""The engine's keys and values as the native step reads and writes them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from beholder.core.errors import ConfigError

STORED = (torch.float32, torch.bfloat16)


class KeyValues:
    """Per layer keys and values, (key heads, places, head width) each; kept alive as long as this is.

    ConfigError where they differ in shape or dtype, or are no plain float32 or bfloat16 memory of the CPU.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
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
                        f"native decode reads contiguous float32 or bfloat16 keys and values on the CPU, and "
                        f"those of layer {number} are {tensor.dtype} on {tensor.device}"
                    )
        self.layers = tuple(layers)
        self.key_heads, self.places, self.width = first.shape
        self.is_bfloat = first.dtype == torch.bfloat16
        self.keys = self._pointers(0)
        self.values = self._pointers(1)

    def _pointers(self, which: int) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * len(self.layers))(*(pair[which].data_ptr() for pair in self.layers))
