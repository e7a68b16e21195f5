"""LLaVA folders that change a base model: a LoRA, and the projector of the first stage of training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from beholder.families.llava.modeling import LlavaForConditionalGeneration
from beholder.families.parity import EXACT, NUMBERS, Found, difference
from beholder.families.parity.llava import GREEDY, expand

# What it is -> its folder of goldens, the checkpoint in there.
CHANGED = {"LoRA": ("lora", "llava-tiny-lora"), "stage 1": ("stage1", "llava-tiny-pretrain")}
BASE, TOWER = "lora/vicuna-tiny", "llava/clip-vit-tiny-patch14-56"
SHOWN = 40  # of the ids, without the picture, are the text whose logits were recorded


def compare(folder: Path, name: str) -> Iterator[Found]:
    """Logits of a text and greedy tokens about a picture, of folders as training left them.

    They were recorded once, with LLaVA's tower.
    """
    for told, (kind, checkpoint) in CHANGED.items() if name == "llava" else ():
        io = load_file(folder / kind / "io.safetensors")
        with TemporaryDirectory() as place, torch.no_grad():
            for beside in (BASE, TOWER, f"{kind}/{checkpoint}"):
                shutil.copytree(folder / beside, Path(place) / Path(beside).name)
            model: Any = LlavaForConditionalGeneration.from_pretrained(
                Path(place) / checkpoint, attn_implementation="eager"
            )
            text = io["input_ids"][:, :SHOWN].clamp(min=0)
            rows = model.config.used_rows
            logits, wanted = model(text).logits[:, -1, :rows], io["text_logits_first40"]
            yield Found(
                f"{told}: logits", checkpoint, difference(logits, wanted.reshape(logits.shape)), NUMBERS
            )
            features = len(next(iter(model.get_image_features(io["pixel_values"]).pooler_output)))
            ids = expand(io["input_ids"][0], features, rows)
            answer = model.generate(
                ids, pixel_values=io["pixel_values"], attention_mask=torch.ones_like(ids), **GREEDY
            )[0, ids.shape[1] :]
            recorded = next(io[key] for key in io if "generated" in key or "greedy" in key).flatten()
            far = difference(answer, recorded[-len(answer) :])
            yield Found(f"{told}: 16 greedy tokens", checkpoint, far, EXACT)
