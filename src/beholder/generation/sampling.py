"""How one token is chosen from one row of scores: greedy, or drawn after the usual filters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from beholder.core.types import Sampling


class Chooser:
    """Chooses the tokens of one request; owns its random numbers, so neighbours cannot change an answer."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], device: torch.device) -> None:
        self.penalty = _penalty(sampling)
        self.filters = _filters(sampling)
        self.random: torch.Generator | None = None
        if sampling.temperature > 0:
            self.random = torch.Generator(device)
            if sampling.seed is None:
                self.random.seed()
            else:
                self.random.manual_seed(sampling.seed)
        # Only the repetition penalty looks back.
        self.seen = torch.tensor([list(prompt)], dtype=torch.long, device=device) if self.penalty else None

    def choose(self, scores: Tensor) -> int:
        """The next token from its row of logits, (1, vocabulary)."""
        if self.penalty is not None and self.seen is not None:
            scores = self.penalty(self.seen, scores.float())
        if self.random is None:
            token = scores.argmax(dim=-1, keepdim=True)
        else:
            # The filters after the penalty look at scores alone; their `input_ids` argument is not read.
            nothing = torch.LongTensor(1, 0)
            kept = self.filters(nothing, scores.float())
            token = torch.multinomial(kept.softmax(dim=-1), 1, generator=self.random)
        if self.seen is not None:
            self.seen = torch.cat([self.seen, token], dim=1)
        return int(token)


def _penalty(sampling: Sampling) -> RepetitionPenaltyLogitsProcessor | None:
    if sampling.repetition_penalty == 1.0:
        return None
    return RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)


def _filters(sampling: Sampling) -> LogitsProcessorList:
    """In the order of `generate()`: temperature, top-k, top-p, min-p; each only where it does something."""
    filters = LogitsProcessorList()
    if sampling.temperature not in (0.0, 1.0):
        filters.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        filters.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        filters.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        filters.append(MinPLogitsWarper(sampling.min_p))
    return filters
