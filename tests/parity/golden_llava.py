"""The LLaVA and InternVL-Chat goldens and the models they belong to, opened once each."""

from __future__ import annotations

import gzip
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from beholder.families.llava.modeling import LlavaForConditionalGeneration

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "llava"
CLIP = FOLDER / "llava" / "clip-vit-tiny-patch14-56"
ROWS = 512  # of the published vocabulary
PICTURE = -200
TOLERANCE = 1e-5
CASES = {
    "llava": ("one_image", "image_last", "two_images", "text_only"),
    "internvl": ("one_image", "two_images", "text_only"),
}


@cache
def recorded(kind: str) -> dict[str, Tensor]:
    """All inputs and outputs of a folder of goldens."""
    return load_file(FOLDER / kind / "io.safetensors")


def told(name: str) -> Any:
    """One JSON file of the goldens."""
    return json.loads((FOLDER / name).read_text())


def manifest(name: str) -> dict[str, list[int]]:
    """The published names and shapes of a full-size checkpoint."""
    listed = json.loads(gzip.decompress((FOLDER / "manifests" / f"manifest-{name}.json.gz").read_bytes()))
    return {key: tensor["shape"] for key, tensor in listed.items()}


@cache
def model_of(kind: str, attention: str = "eager") -> LlavaForConditionalGeneration:
    """The published checkpoint, opened as a user opens it."""
    return LlavaForConditionalGeneration.from_pretrained(
        FOLDER / kind / "model", attn_implementation=attention
    )


def expand(ids: Tensor, features: int, placeholder: int = ROWS) -> Tensor:
    """One row of the original's ids with every -200 replaced by as many placeholders as it has features."""
    spread = [[placeholder] * features if token == PICTURE else [token] for token in ids.tolist()]
    return torch.tensor([[token for tokens in spread for token in tokens]])


def inputs_of(kind: str, case: str) -> dict[str, Tensor]:
    """The case's inputs as our model takes them."""
    io = recorded(kind)
    pixels = io.get(f"{case}.pixel_values")
    features = 0 if pixels is None else io[f"{case}.projected_features"].shape[1]
    inputs = {"input_ids": expand(io[f"{case}.input_ids"][0], features)}
    return inputs if pixels is None else inputs | {"pixel_values": pixels}


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Fails unless two tensors have one shape and no element differs by more."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def tokenizer(*added: str) -> Any:
    """The tiny tokenizer, with special tokens added where a case has them."""
    found = AutoTokenizer.from_pretrained(FOLDER / "tokenizer")
    if added:
        found.add_tokens(list(added), special_tokens=True)
    return found


def beside_base(kind: str, name: str, place: Path) -> Path:
    """A checkpoint that changes a base model, beside its base model and its tower as they were published."""
    shutil.copytree(FOLDER / "lora" / "vicuna-tiny", place / "vicuna-tiny")
    shutil.copytree(CLIP, place / CLIP.name)
    return Path(shutil.copytree(FOLDER / kind / name, place / name))
