"""360VL: from pixels over both abstractors to logits, tokens and gradients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from beholder.families.parity import EXACT, NUMBERS, Found, difference, gradient_norms
from beholder.families.qh360vl.compatibility import expand
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.layout import PUBLISHED
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration, stitch
from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.processing.images import open_picture

CASES = ("cc", "turn2", "text", "multi", "batch", "mixed", "sw", "sv")
GREEDY = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": 5, "pad_token_id": 5}
SHOWN = {"multi": ("a", "b"), "batch": ("a", "b"), "mixed": ("a", "b"), "text": ()}
ATTENTION = ("eager", "sdpa")
PLANS: tuple[tuple[Literal["five", "single"], str], ...] = (
    ("five", "sha256_float32"),
    ("single", "single_sha256_float32"),
)


def compare(folder: Path, name: str) -> Iterator[Found]:
    """Every stage that was recorded."""
    io = load_file(folder / "io.safetensors")
    yield from _pixels(folder)
    for attention in ATTENTION:
        models = {
            False: QH360VLForConditionalGeneration.from_pretrained(folder, attn_implementation=attention),
            True: _separate(folder, attention),
        }
        with torch.no_grad():
            if attention == "eager":
                yield from _projectors(models[False], io)
            yield from _answers(models, io, attention)
        yield from _training(folder, models[False], io, attention)


def _pixels(folder: Path) -> Iterator[Found]:
    for case, told in json.loads((folder / "preprocess.json").read_text()).items():
        picture, _, mode = case.partition(".")
        aspect = "anything else" if mode == "nopad" else "pad"
        source = open_picture(folder / f"images/{picture}.png")
        for plan, key in PLANS:
            views = QH360VLImageProcessor(aspect=aspect, plan=plan).views(source)
            same = hashlib.sha256(views.tobytes()).hexdigest() == told[key]
            yield Found("pixels (bit for bit)", f"{case}/{plan}", EXACT if same else 1.0, EXACT)


def _separate(folder: Path, attention: str) -> Any:
    """The model of the other plan of views, whose weights lie in two files."""
    config = QH360VLConfig.from_published(json.loads((folder / "sw" / "config.json").read_text()), folder)
    stored = load_file(folder / "model.safetensors") | load_file(folder / "sw" / "extra.safetensors")
    model = QH360VLForConditionalGeneration(config).eval()
    model.set_attn_implementation(attention)
    model.load_state_dict({str(PUBLISHED.ours(key)): tensor for key, tensor in stored.items()})
    return model


def _projectors(model: Any, io: dict[str, Tensor]) -> Iterator[Found]:
    pixels, body = io["pixels.a"].float(), model.model
    yield Found("tower features", "cc", difference(body.see(pixels), io["cc.vision_features"]), NUMBERS)
    grid = stitch(io["cc.vision_features"][None, :4])
    yield Found("corners as one map", "cc", difference(grid, io["cc.ctt_grid"]), EXACT)
    table = body.corner_abstractor.positions(8)[0]
    yield Found("position table", "cc", difference(table, io["cc.ctt_pos_emb"]), NUMBERS)
    for branch, part in (("ctt", "corner_abstractor"), ("ori", "whole_abstractor")):
        source = io["cc.ctt_grid"] if branch == "ctt" else io["cc.ori_in"]
        out = getattr(body, part)(source)
        yield Found("abstractors", branch, difference(out, io[f"cc.{branch}_out"]), NUMBERS)
    slots = model.get_image_features(pixels[None]).pooler_output[0]
    yield Found("slots", "cc", difference(slots, io["cc.image_tokens"]), NUMBERS)


def _images(io: dict[str, Tensor], case: str) -> Tensor | None:
    pixels = {name: io[f"pixels.{name}"].float() for name in ("a", "b")}
    if case == "sv":
        return pixels["a"][4:]
    shown = SHOWN.get(case, ("a",))
    return torch.stack([pixels[name] for name in shown]) if shown else None


def _inputs(model: Any, io: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    mask, labels = io.get(f"{case}.attention_mask"), io.get(f"{case}.labels")
    return expand(model.config, io[f"{case}.input_ids"], _images(io, case), mask, labels)


def _where(io: dict[str, Tensor], case: str) -> Tensor:
    """Where the recorded numbers mean something."""
    given = io.get(f"{case}.merged_attention_mask")
    return torch.ones(io[f"{case}.logits"].shape[:2], dtype=torch.bool) if given is None else given.bool()


def _answers(models: dict[bool, Any], io: dict[str, Tensor], attention: str) -> Iterator[Found]:
    for case in CASES:
        model = models[case in ("sw", "sv")]
        inputs, where = _inputs(model, io, case), _where(io, case)
        if f"{case}.inputs_embeds" in io:
            slots = model.get_image_features(inputs["pixel_values"]).pooler_output
            merged = model.model.embed(inputs["input_ids"], slots)
            far = difference(merged[where], io[f"{case}.inputs_embeds"][where])
            yield Found("merged embeddings", f"{case}/{attention}", far, NUMBERS)
        logits = model(**inputs).logits
        far = difference(logits[where], io[f"{case}.logits"][where])
        yield Found("logits", f"{case}/{attention}", far, NUMBERS)
        if f"{case}.generated" in io:
            for cached in (True, False):
                ids = model.generate(**inputs, **GREEDY, use_cache=cached)[:, inputs["input_ids"].shape[1] :]
                far = difference(ids, io[f"{case}.generated"])
                yield Found("16 greedy tokens", f"{case}/{attention}", far, EXACT)


def _training(folder: Path, model: Any, io: dict[str, Tensor], attention: str) -> Iterator[Found]:
    model.model.vision_tower.requires_grad_(False)
    for case in ("batch", "mixed"):
        wanted = json.loads((folder / f"{case}_grads.json").read_text())["grad_norms"]
        model.zero_grad()
        loss = model(**_inputs(model, io, case)).loss
        yield Found("loss", f"{case}/{attention}", difference(loss[None], io[f"{case}.loss"]), NUMBERS)
        loss.backward()
        far = gradient_norms(model, wanted, PUBLISHED, {})
        yield Found("gradient norms (relative)", f"{case}/{attention}", far, NUMBERS)
