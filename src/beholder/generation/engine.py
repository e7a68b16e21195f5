"""Runs one model in one process: reads the prompt once, then one token at a time from the cache.

Each request has its own cache and its own random numbers; the model is shared, and a lock around each step
lets several threads take turns.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from beholder.core.types import Sampling
from beholder.generation.sampling import Chooser


class Engine:
    """Takes input tensors, gives token ids."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self._turn = threading.Lock()

    def stream(
        self, inputs: Mapping[str, Any], sampling: Sampling, terminators: tuple[int, ...]
    ) -> Generator[int]:
        """The new ids, one by one; the last is a terminator unless `max_tokens` came first.

        `inputs` is what the processor made of one conversation (one row). Closing the iterator cancels the
        request: nothing runs ahead of what was asked for.
        """
        ids: Tensor = inputs["input_ids"]
        if ids.shape[0] != 1:
            raise ValueError(f"the engine runs one conversation per request, not {ids.shape[0]} rows")
        chooser = Chooser(sampling, ids[0].tolist(), self.model.device)
        cache = DynamicCache(config=self.model.config.get_text_config())
        token = self._step({**inputs, "logits_to_keep": 1}, cache, chooser)
        for _ in range(sampling.max_tokens - 1):
            yield token
            if token in terminators:
                return
            token = self._step({"input_ids": torch.tensor([[token]])}, cache, chooser)
        yield token

    @torch.inference_mode()
    def _step(self, inputs: Mapping[str, Any], cache: DynamicCache, chooser: Chooser) -> int:
        """Run the model once and choose. Inference mode ends here: the caller's code must not see it."""
        tensors = {name: self._place(value) for name, value in inputs.items()}
        with self._turn:
            scores = self.model(**tensors, past_key_values=cache, use_cache=True).logits[:, -1]
            return chooser.choose(scores)

    def _place(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        dtype = self.model.dtype if value.is_floating_point() else value.dtype
        return value.to(device=self.model.device, dtype=dtype)
