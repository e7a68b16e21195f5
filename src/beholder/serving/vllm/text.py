"""The language model of a LLaVA-1.5, InternVL-Chat or 360VL checkpoint as a vLLM model.

It is vLLM's Llama, opened from a folder that holds towers and projectors as well. Pictures come to it as
embeddings. Runs only inside vLLM's processes.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterable

import torch
from vllm.model_executor.models.llama import LlamaForCausalLM

from beholder.serving.vllm.names import text_weights


class BeholderText(LlamaForCausalLM):
    """Takes the language model's tensors out of a whole checkpoint; vLLM refuses if one is missing."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fill the parameters; the names of those that were filled."""
        return super().load_weights(text_weights(weights))
