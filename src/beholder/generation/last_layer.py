"""Reading a prompt asks its last layer for keys and values, and for what the last token becomes: no more.

The MLP of all other tokens, four fifths of that layer's work, is left out.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from beholder.generation.native.parts import known_layers
from beholder.generation.native.watch import are_listened_to

# Classes that look at each token alone.
MLPS = ("LlamaMLP", "MistralMLP")


class LastLayer:
    """The last layer of a model's decoder, where that is of a class known to end as Llama's does."""

    def __init__(self, model: Any) -> None:
        layers = known_layers(model)
        self._layer: Any = layers[-1] if len(layers) else None
        self._above: list[nn.Module] = []
        if self._layer is not None:
            name = next(name for name, module in model.named_modules() if module is self._layer)
            steps = name.split(".")
            self._above = [model.get_submodule(".".join(steps[:count])) for count in range(len(steps) + 1)]

    @contextmanager
    def shortened(self, *, wanted: bool) -> Generator[None]:
        """Compute the MLP of the last token alone meanwhile, or, not `wanted`, of none.

        The others' is zero, which nobody reads. Not where somebody listens to a module that would tell of it.
        """
        mlp: Any = getattr(self._layer, "mlp", None)
        if type(mlp).__name__ not in MLPS or are_listened_to([*self._above, mlp]):
            yield
            return
        whole = mlp.forward

        def forward(hidden: Tensor) -> Tensor:
            if not torch.is_inference_mode_enabled():  # another thread runs the model meanwhile
                return whole(hidden)
            added = torch.zeros_like(hidden)
            if wanted:
                added[:, -1:] = whole(hidden[:, -1:])
            return added

        mlp.__dict__["forward"] = forward  # found before the class's own
        try:
            yield
        finally:
            del mlp.__dict__["forward"]
