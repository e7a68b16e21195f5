"""Names that our server and vLLM's processes must agree on, and which tensors are the language model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

TEXT_ARCHITECTURE = "BeholderText"
EXPERTS_ARCHITECTURE = "BeholderExperts"
# `model_type`s of language models and what they are in vLLM: `text.py`, `experts.py`.
KINDS = {"llama": TEXT_ARCHITECTURE, "cogvlm_text": EXPERTS_ARCHITECTURE}
EMBEDDING_WIDTH = "embedding_width"  # in a configuration whose `hidden_size` counts marks, too

# Beginnings of tensor names, as published and as ours, before those of a language model alone.
PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
PARTS = ("layers.", "embed_tokens.", "norm.")
Weight = TypeVar("Weight")


def text_name(name: str) -> str | None:
    """A tensor's name in the language model alone; None for what is not in it.

    Vision towers have layers, too, but never directly below one of the prefixes.
    """
    if name in ("lm_head.weight", "language_model.lm_head.weight"):
        return "lm_head.weight"
    for prefix in PREFIXES:
        rest = name.removeprefix(prefix)
        if rest != name and rest.startswith(PARTS):
            return f"model.{rest}"
    return None


def text_weights(weights: Iterable[tuple[str, Weight]]) -> Iterator[tuple[str, Weight]]:
    """The language model's tensors of a checkpoint, under the names that they have there."""
    for name, weight in weights:
        if (inside := text_name(name)) is not None:
            yield inside, weight
