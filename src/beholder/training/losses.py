"""The loss of trained tokens, with logits computed for them alone.

Most positions of a training batch are pictures, questions and padding. Their logits, a row as wide as the
vocabulary each, would be computed, kept for the backward pass, and never read.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from beholder.processing.labels import IGNORED


@contextmanager
def only_at(head: nn.Module, places: Tensor) -> Generator[None]:
    """Meanwhile the head (its input (B, S, H)) computes the flattened positions `places`, as (1, places, H).

    It goes through the model's own forward, so whatever wraps the model (DDP, FSDP, PEFT) sees its call.
    """
    handle = head.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1)[places][None],))
    try:
        yield
    finally:
        handle.remove()


def answer_loss(
    model: nn.Module, head: nn.Module, inputs: dict[str, Any], items: Tensor | int | None = None
) -> tuple[Tensor, Any]:
    """Cross-entropy of the next tokens that `labels` name, and the model's output with logits of those alone.

    The sum is divided by `items`, the trained tokens of a whole step; by those of this batch if it is None.
    Where nothing is trained the loss is 0.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    following = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    places = (following != IGNORED).nonzero().squeeze(1)
    with only_at(head, places):
        outputs = model(**inputs)
    logits = outputs["logits"][0].float()
    total = functional.cross_entropy(logits, following[places].to(logits.device), reduction="sum")
    trained = torch.as_tensor(len(places) if items is None else items)
    return total / trained.clamp(min=1), outputs


def is_finite(loss: Tensor) -> bool:
    """Whether the loss is a number."""
    return bool(torch.isfinite(loss.detach()).all())
