"""The same weights through transformers' own code and its `generate`: what everybody would use without us."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from beholder.benchmarking.material import as_chat
from beholder.core.types import Message

NEVER = 10**6  # an id that no vocabulary has: answers go on to their length


class Clock(BaseStreamer):
    """Notes when each token came; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        """A token of each row, or at first the prompts, has come."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""


@dataclass(frozen=True)
class Timed:
    """One call of `generate`: seconds from the start, of which until inputs were ready and to each token."""

    total: float
    tokens: tuple[float, ...]

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.tokens[0]

    @property
    def per_step(self) -> float:
        """Seconds of each further step."""
        return (self.tokens[-1] - self.tokens[0]) / max(1, len(self.tokens) - 1)


class Peer:
    """transformers' `generate` over the weights of a loaded model; pictures are prepared by our processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = twin(model)
        self.processor = processor

    @property
    def name(self) -> str:
        """What computes, with its version."""
        return f"transformers {transformers.__version__} generate, {type(self.model).__name__}"

    def run(self, conversations: Sequence[tuple[Message, ...]], length: int) -> Timed:
        """Answer conversations side by side, shorter prompts filled up on the left, `length` tokens each."""
        begun, clock = time.perf_counter(), Clock()
        inputs = self.processor.apply_chat_template(
            [as_chat(messages) for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        placed = {name: self._placed(value) for name, value in inputs.items()}
        with torch.inference_mode():
            self.model.generate(
                **placed,
                do_sample=False,
                max_new_tokens=length,
                eos_token_id=[NEVER],
                pad_token_id=0,
                streamer=clock,
            )
        total = time.perf_counter() - begun
        return Timed(total, tuple(moment - begun for moment in clock.times[1:]))

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        dtype = self.model.dtype if value.is_floating_point() else value.dtype
        return value.to(device=self.model.device, dtype=dtype)


def twin(model: Any) -> Any:
    """A model of transformers' own class over the same tensors, where ours only adds to one; else itself."""
    theirs: Any = next(
        (kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers.models.")), None
    )
    if theirs is None or theirs is type(model) or not hasattr(theirs, "generate"):
        return model
    with torch.device("meta"):
        other = theirs(model.config)
    try:
        other.load_state_dict(model.state_dict(), strict=True, assign=True)
    except RuntimeError:  # it has parts that transformers' class does not know
        return model
    for name, buffer in model.named_buffers():
        parent, _, leaf = name.rpartition(".")
        other.get_submodule(parent)._buffers[leaf] = buffer
    return other.eval()
