"""CogVLM: pixels, tower, adapter, positions and experts, states of every layer, logits, tokens, gradients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration
from beholder.families.cogvlm.routing import rotary_positions, vision_experts
from beholder.families.cogvlm.views import CogVLMImageProcessor
from beholder.families.parity import EXACT, NUMBERS, PIXELS, Found, difference, gradient_norms, unequal

ATTENTION = ("eager", "sdpa")
NAMES = {
    "pixels": "pixel_values", "input_ids": "input_ids", "token_type_ids": "token_type_ids",
    "attention_mask": "attention_mask", "labels": "labels",
}  # fmt: skip
GREEDY = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0}
GRADIENTS = 1e-3  # of norms that were recorded with few digits
SHOWN = 64  # pixels a side that were recorded


def compare(folder: Path, name: str) -> Iterator[Found]:
    """Every stage that was recorded."""
    io = load_file(folder / "io.safetensors")
    told = json.loads((folder / "io.json").read_text())
    yield from _pixels(folder)
    for attention in ATTENTION:
        model = CogVLMForConditionalGeneration.from_pretrained(
            folder / "model", dtype=torch.float32, attn_implementation=attention
        )
        with torch.no_grad():
            for case in (case["name"] for case in told["cases"]):
                if f"{case}/logits" in io and f"{case}/greedy_new_tokens" in io:
                    yield from _case(model, io, case, attention)
        if attention == "eager":
            yield from _conversations(folder, model)
            yield from _training(model, io, told)


def _pixels(folder: Path) -> Iterator[Found]:
    stored = load_file(folder / "preprocess.safetensors")
    for entry in json.loads((folder / "preprocess.json").read_text())["images"]:
        picture = Image.open(folder / "images" / entry["file"])
        for side, wanted in entry["outputs"].items():
            pixels = torch.from_numpy(CogVLMImageProcessor(side=int(side)).view(picture))
            stride = wanted["sample_stride"]
            sample = pixels[:, ::stride, ::stride][:, :SHOWN, :SHOWN]
            far = difference(sample, stored[f"{entry['file']}/{side}/sample"])
            yield Found("pixels", f"{entry['file']}/{side}", far, PIXELS)


def _conversations(folder: Path, model: Any) -> Iterator[Found]:
    """Ids, their types and labels as the checkpoint's own method builds them, for every template."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    recorded = json.loads((folder / "tokenization.json").read_text())["build_conversation_input_ids"]
    for number, case in enumerate(recorded):
        built = model.build_conversation_input_ids(
            tokenizer,
            query=case["query"],
            history=[tuple(pair) for pair in case["history"]],
            images=[Image.new("RGB", (8, 8))] if case["image"] else None,
            template_version=case["template"],
            answer=case["answer"],
        )
        told = f"{case['template']}/{number}"
        for stage, name in (("ids of conversations", "input_ids"), ("types of tokens", "token_type_ids")):
            yield Found(stage, told, unequal(built[name].tolist(), case[name]), EXACT)
        if case["answer"] is not None:
            yield Found(
                "labels of conversations", told, unequal(built["labels"].tolist(), case["labels"]), EXACT
            )


def _case(model: Any, io: dict[str, Tensor], case: str, attention: str) -> Iterator[Found]:
    inputs = {ours: io[f"{case}/{name}"] for name, ours in NAMES.items() if f"{case}/{name}" in io}
    told, features = f"{case}/{attention}", None
    if "pixel_values" in inputs:
        seen = model.get_image_features(inputs["pixel_values"])
        features = seen.pooler_output
        far = difference(seen.last_hidden_state, io[f"{case}/vision_pre_adapter"])
        yield Found("tower", told, far, NUMBERS)
        yield Found("adapter", told, difference(features, io[f"{case}/vision_post_adapter"]), NUMBERS)
    types, mask = inputs["token_type_ids"], inputs["attention_mask"]
    far = difference(rotary_positions(types, mask), io[f"{case}/position_ids"])
    yield Found("position ids", told, far, EXACT)
    if f"{case}/vision_mask" in io:
        experts = vision_experts(types).long()
        yield Found("experts", told, difference(experts, io[f"{case}/vision_mask"].long()), EXACT)
    embedded = model.model.embed(inputs["input_ids"], types, features)
    yield Found("merged embeddings", told, difference(embedded, io[f"{case}/inputs_embeds"]), NUMBERS)
    out = model(**inputs, output_hidden_states=True)
    for number, states in enumerate(out.hidden_states):
        if (wanted := io.get(f"{case}/hidden_states.{number}")) is not None:
            yield Found("states of every layer", told, difference(states, wanted), NUMBERS)
    yield Found("logits", told, difference(out.logits, io[f"{case}/logits"]), NUMBERS)
    for cached in (True, False):
        ids = model.generate(**inputs, **GREEDY, use_cache=cached)[:, inputs["input_ids"].shape[1] :]
        far = difference(ids, io[f"{case}/greedy_new_tokens"])
        yield Found("16 greedy tokens", told, far, EXACT)


def _training(model: Any, io: dict[str, Tensor], told: dict[str, Any]) -> Iterator[Found]:
    inputs = {ours: io[f"batch2/{name}"] for name, ours in NAMES.items() if f"batch2/{name}" in io}
    model.zero_grad()
    out = model(**inputs)
    real = inputs["attention_mask"].bool()
    yield Found("logits", "batch2", difference(out.logits[real], io["batch2/logits"][real]), NUMBERS)
    yield Found("loss", "batch2", difference(out.loss, io["batch2/loss"][0]), NUMBERS)
    out.loss.backward()
    far = gradient_norms(model, told["batch2"]["grad_norms"], PUBLISHED, {})
    yield Found("gradient norms (relative)", "batch2", far, GRADIENTS)
