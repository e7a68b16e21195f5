"""LLaVA-1.5 and InternVL-Chat: tower, projector, merged embeddings, logits, tokens, loss and gradients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from beholder.families.llava.layout import padded, published
from beholder.families.llava.modeling import LlavaForConditionalGeneration
from beholder.families.parity import EXACT, NUMBERS, Found, difference, gradient_norms

PICTURE = -200
NATIVE = "native_resolution"  # recorded before the tower's position table was resized to the checkpoint's
ATTENTION = ("eager", "sdpa")
GREEDY = {
    "max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_length": None,
}  # fmt: skip
EVERY = 8  # of the training batch's positions that were recorded
GRADIENTS = 2e-3  # of norms that were recorded with five digits


def compare(folder: Path, name: str) -> Iterator[Found]:
    """Every stage that was recorded of this kind, "llava" or "internvl"."""
    place = folder / name
    io = load_file(place / "io.safetensors")
    cases = sorted(key.removesuffix(".input_ids") for key in io if key.endswith(".input_ids"))
    cases = [case for case in cases if f"{case}.last_logits" in io]
    for attention in ATTENTION:
        model = LlavaForConditionalGeneration.from_pretrained(place / "model", attn_implementation=attention)
        with torch.no_grad():
            for case in cases:
                if case != NATIVE:
                    yield from _case(model, io, case, attention)
            if NATIVE in cases:
                yield from _case(_with_own_tower(place, attention), io, NATIVE, attention)
        if attention == "eager":
            yield from _training(place, model, io)


def _with_own_tower(place: Path, attention: str) -> Any:
    """The model with the tower of the tower's own folder, whose position table is of another resolution."""
    with TemporaryDirectory() as temporary:
        shutil.copytree(place / "pretrained", Path(temporary) / "pretrained")
        folder = shutil.copytree(place / "model", Path(temporary) / "model")
        stored = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in stored.items() if "vision_tower" not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation=attention)


def expand(ids: Tensor, features: int, placeholder: int) -> Tensor:
    """One row of the original's ids, with as many placeholders for each picture as it has features."""
    spread = [[placeholder] * features if token == PICTURE else [token] for token in ids.tolist()]
    return torch.tensor([[token for tokens in spread for token in tokens]])


def _case(model: Any, io: dict[str, Tensor], case: str, attention: str) -> Iterator[Found]:
    rows, pixels = model.config.used_rows, io.get(f"{case}.pixel_values")
    told = f"{case}/{attention}"
    features = 0
    if pixels is not None:
        tower = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        recorded = io.get(f"{case}.vision_hidden_states")
        if recorded is not None:
            far = max(difference(ours, wanted) for ours, wanted in zip(tower, recorded, strict=True))
            yield Found("tower, every layer", told, far, NUMBERS)
        projected = torch.stack(list(model.get_image_features(pixels).pooler_output))
        features = projected.shape[1]
        far = difference(projected, io[f"{case}.projected_features"])
        yield Found("projected features", told, far, NUMBERS)
    inputs = {"input_ids": expand(io[f"{case}.input_ids"][0], features, rows)}
    inputs |= {} if pixels is None else {"pixel_values": pixels}
    seen: list[Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    logits = model(**inputs).logits
    hook.remove()
    yield Found("merged embeddings", told, difference(seen[0], io[f"{case}.inputs_embeds"]), NUMBERS)
    yield Found("logits", told, difference(logits[:, -1, :rows], io[f"{case}.last_logits"]), NUMBERS)
    if f"{case}.logits" in io:
        yield Found("logits", told, difference(logits[..., :rows], io[f"{case}.logits"]), NUMBERS)
    mask = torch.ones_like(inputs["input_ids"])
    ids = model.generate(**inputs, attention_mask=mask, **GREEDY)[:, mask.shape[1] :]
    yield Found("16 greedy tokens", told, difference(ids, io[f"{case}.generated"]), EXACT)


def _training(place: Path, model: Any, io: dict[str, Tensor]) -> Iterator[Found]:
    """The recorded batch, whose second row has no picture; the tower is frozen as it was."""
    rows = model.config.used_rows
    labels, mask = io["train_batch.merged.labels"], io["train_batch.merged.attention_mask"]
    width = labels.shape[1]
    features = width - io["train_batch.input_ids"].shape[1] + 1
    expanded = [expand(row, features, rows)[0] for row in io["train_batch.input_ids"]]
    ids = torch.stack([torch.nn.functional.pad(row, (0, width - len(row)))[:width] for row in expanded])
    model.zero_grad()
    model.model.vision_tower.requires_grad_(False)
    pixels = io["train_batch.pixel_values"][:1]
    out = model(input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels)
    yield Found("loss", "train_batch", difference(out.loss, io["train_batch.loss"]), NUMBERS)
    kept = mask.bool()[:, ::EVERY]
    recorded = io["train_batch.logits_every_8th_position"][kept]
    far = difference(out.logits[:, ::EVERY, :rows][kept], recorded)
    yield Found("logits", "train_batch", far, NUMBERS)
    out.loss.backward()
    norms = json.loads((place / "grad_norms.json").read_text())["grad_l2_norm"]
    learned = {name: norm for name, norm in norms.items() if "vision_tower" not in name}
    far = gradient_norms(model, learned, published(model.config), padded(model.config))
    yield Found("gradient norms (relative)", "train_batch", far, GRADIENTS)
