"""The 360VL goldens and the models they belong to, opened once each."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from beholder.families.qh360vl.compatibility import expand
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.layout import PUBLISHED
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "360vl"
ATTENTION = ("eager", "sdpa")
# Logits reach 10: where sums run in another order (batched rows, fused attention, another CPU) 1e-5 is a
# few roundings.
TOLERANCE = {"eager": 3e-5, "sdpa": 5e-5}
PICTURES = {"multi": ("a", "b"), "batch": ("a", "b"), "mixed": ("a", "b"), "text": ()}  # the others show a


@cache
def recorded() -> dict[str, Tensor]:
    """All inputs and outputs."""
    return load_file(FOLDER / "io.safetensors")


def published_config(folder: str = ".") -> dict[str, Any]:
    """The published `config.json`: "." of the released plan, "sw" of the other."""
    return json.loads((FOLDER / folder / "config.json").read_text())


@cache
def released_model(attention: str = "eager") -> QH360VLForConditionalGeneration:
    """The model with two projectors, opened as a user opens it."""
    return QH360VLForConditionalGeneration.from_pretrained(FOLDER, attn_implementation=attention)


@cache
def separate_model(attention: str = "eager") -> QH360VLForConditionalGeneration:
    """The model with three projectors, whose weights are two files."""
    config = QH360VLConfig.from_published(published_config("sw"), FOLDER)
    stored = load_file(FOLDER / "model.safetensors") | load_file(FOLDER / "sw" / "extra.safetensors")
    model = QH360VLForConditionalGeneration(config).eval()
    model.set_attn_implementation(attention)
    model.load_state_dict({str(PUBLISHED.ours(name)): tensor for name, tensor in stored.items()})
    return model


def model_of(case: str, attention: str = "eager") -> QH360VLForConditionalGeneration:
    """The model that a case was recorded with."""
    return separate_model(attention) if case in ("sw", "sv") else released_model(attention)


def images_of(case: str) -> Tensor | None:
    """The case's `images` as the original took them; the single-view case shows the whole view only."""
    pixels = {name: recorded()[f"pixels.{name}"].float() for name in ("a", "b")}
    if case == "sv":
        return pixels["a"][4:]
    shown = PICTURES.get(case, ("a",))
    return torch.stack([pixels[name] for name in shown]) if shown else None


def inputs_of(case: str) -> dict[str, Tensor]:
    """The case's inputs as our model takes them."""
    io = recorded()
    return expand(
        model_of(case).config,
        io[f"{case}.input_ids"],
        images_of(case),
        io.get(f"{case}.attention_mask"),
        io.get(f"{case}.labels"),
    )


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Fails unless two tensors have one shape and no element differs by more."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
