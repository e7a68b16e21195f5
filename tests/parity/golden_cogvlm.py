"""The CogVLM goldens and the model they belong to, opened once."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "cogvlm"
ATTENTION = ("eager", "sdpa")
SINGLE = ("chat", "chat_two_turn", "text_only", "vqa", "base_empty", "grounding")
TOLERANCE = {"eager": 3e-5, "sdpa": 5e-5}


def told(name: str) -> Any:
    """One of the recorded JSON files."""
    return json.loads((FOLDER / f"{name}.json").read_text())


@cache
def recorded() -> dict[str, Tensor]:
    """All inputs and outputs."""
    return load_file(FOLDER / "io.safetensors")


def case_of(name: str) -> dict[str, Any]:
    """What `io.json` tells of one case."""
    return next(case for case in told("io")["cases"] if case["name"] == name)


def manifest(name: str) -> dict[str, list[int]]:
    """Published keys and shapes of a full-size checkpoint."""
    packed = (FOLDER / "manifests" / f"manifest-cogvlm-{name}.json.gz").read_bytes()
    return {key: tensor["shape"] for key, tensor in json.loads(gzip.decompress(packed)).items()}


def published_config() -> dict[str, Any]:
    """The published `config.json`."""
    return json.loads((FOLDER / "model" / "config.json").read_text())


@cache
def model(attention: str = "eager") -> CogVLMForConditionalGeneration:
    """The recorded model in float32, opened as a user opens it."""
    return CogVLMForConditionalGeneration.from_pretrained(
        FOLDER / "model", dtype=torch.float32, attn_implementation=attention
    )


def inputs_of(case: str) -> dict[str, Tensor]:
    """The case's inputs as our model takes them."""
    io = recorded()
    names = {"pixels": "pixel_values", "labels": "labels"}
    names |= {name: name for name in ("input_ids", "token_type_ids", "attention_mask")}
    source = "batch2" if case == "batch2_generate" else case
    given = {ours: io[f"{case}/{name}"] for name, ours in names.items() if f"{case}/{name}" in io}
    if case == "batch2_generate":
        given["pixel_values"] = io[f"{source}/pixels"]
    return given


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Fails unless two tensors have one shape and no element differs by more."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
