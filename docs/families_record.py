"""Tries on each family what the README's table says of it, and writes the record that the table is made from.

    python docs/families_record.py [--out FILE]

Tried on random models of two layers in the published layouts, and on the built-in one. What is recorded is
that a thing works, and how far 4 bits are from the dense model; how well a large model answers is another
matter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml

import beholder
from beholder.cli import main as command
from beholder.core.records import capture, hash_weights
from beholder.families.geometries import TRIAL, TRIAL_WIDTHS
from beholder.families.random_weights import write_random
from beholder.grounding.boxes import to_pixels
from beholder.grounding.dialects import find_dialect, read_boxes, to_fractions
from beholder.mini import FOLDER
from beholder.processing.images import open_picture

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "examples" / "shapes.png"
MINI = "beholder-mini"
# Column of the table -> the published size whose small copy is tried.
FAMILIES = {
    "360vl": "360vl-8b", "llava": "llava-1.5-7b", "internvl": "internvl-chat-7b", "cogvlm": "cogvlm-base-224",
}  # fmt: skip
QUESTION = "What shape is red?"
TOKENS = 4


def chat(folder: Path, _work: Path) -> dict[str, float]:
    """Two turns, streamed; the second finds the first again."""
    vlm = beholder.load(folder, dtype="float32")
    messages: list[Any] = [
        {
            "role": "user",
            "content": [{"type": "image", "path": str(PICTURE)}, {"type": "text", "text": QUESTION}],
        }
    ]
    first = "".join(vlm.stream(messages, max_tokens=TOKENS))
    messages += [{"role": "assistant", "content": first or "?"}, {"role": "user", "content": "Sure?"}]
    second = vlm.chat(messages, max_tokens=TOKENS)
    vlm.close()
    return {"chat_turns": 2.0, "chat_cached_tokens": float(second.usage.cached_tokens)}


def ground(folder: Path, _work: Path) -> dict[str, float]:
    """A box that is spelled in the family's first form comes back in pixels of the picture."""
    vlm = beholder.load(folder, dtype="float32")
    box = beholder.Box(64.0, 48.0, 320.0, 240.0)
    frame = vlm.processor.box_frame(*open_picture(PICTURE).size)
    form = vlm.habits.dialects[0]
    written = find_dialect(form).write([to_fractions(box, frame)])
    (read,) = read_boxes(written, form).boxes
    back = to_pixels(read.corners, frame)
    vlm.ask(PICTURE, vlm.habits.asked("the red shape", "Find {phrase}."), max_tokens=TOKENS)
    vlm.close()
    found = zip((back.x1, back.y1, back.x2, back.y2), (box.x1, box.y1, box.x2, box.y2), strict=True)
    return {"ground_error_px": max(abs(one - other) for one, other in found)}


def lora(folder: Path, work: Path) -> dict[str, float]:
    """Four steps of `beholder train`; the adapter opens by its folder and changed something."""
    rows = [{"id": "1", "image": PICTURE.name, "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Circle."}]}] * 4  # fmt: skip
    (work / "rows.json").write_text(json.dumps([{**row, "id": str(n)} for n, row in enumerate(rows)]))
    recipe = {
        "name": "tried", "model": str(folder), "output": str(work / "run"),
        "data": [{"rows": str(work / "rows.json"), "pictures": str(PICTURE.parent)}],
        "lora": {"rank": 4, "alpha": 8, "targets": {"model.language_model": ["all"]}},
        "learning_rate": 1e-3, "steps": 4, "global_batch": 1, "device_batch": 1, "max_length": 2048,
        "workers": 0, "precision": "fp32", "log_every": 1,
    }  # fmt: skip
    (work / "lora.yaml").write_text(yaml.safe_dump(recipe))
    if command(["train", str(work / "lora.yaml")]):
        raise SystemExit(f"training an adapter on {folder} failed")
    losses = [json.loads(line)["loss"] for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    beholder.load(work / "run" / "adapter", dtype="float32").close()
    return {"lora_first_loss": losses[0], "lora_last_loss": losses[-1]}


def four_bits(folder: Path, _work: Path) -> dict[str, float]:
    """Answers in 4 bits, and how far its scores for the first token are from the dense model's."""
    told = []
    for bits in (None, "4bit"):
        vlm = beholder.load(folder, dtype="float32", quantize=bits)
        with torch.inference_mode():
            inputs = vlm.processor.encode([beholder.Message.user(open_picture(PICTURE), QUESTION)])
            told.append(torch.log_softmax(vlm.model(**inputs).logits[0, -1].double(), -1))
        vlm.ask(PICTURE, QUESTION, max_tokens=TOKENS)
        vlm.close()
    dense, packed = told
    said = dense.isfinite()  # rows that only fill up the vocabulary are never said
    apart = dense[said].exp() * (dense[said] - packed[said])
    return {"4bit_divergence_nats": float(apart.sum().clamp(min=0))}


TRIED: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "chat": chat, "ground": ground, "lora": lora, "4bit": four_bits,
}  # fmt: skip


def tried(name: str) -> dict[str, Any]:
    """The record's values of one column; an attempt that fails stops everything."""
    with tempfile.TemporaryDirectory(prefix="beholder-families-") as made:
        work = Path(made)
        folder = FOLDER
        if name != MINI:
            folder = work / name
            write_random(FAMILIES[name], folder, layers=2, dtype="float32", changes=TRIAL[name])
        values: dict[str, Any] = {}
        for way, attempt in TRIED.items():
            begun = time.perf_counter()
            found = attempt(folder, work)
            if bad := [key for key, value in found.items() if not math.isfinite(value)]:
                raise SystemExit(f"{name}: {way} gave no number for {', '.join(bad)}")
            values |= {f"{name} {key}": value for key, value in found.items()}
            sys.stderr.write(f"{name:14}{way:8}{time.perf_counter() - begun:6.1f} s  {found}\n")
        return values


def main() -> None:
    """Try, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = ROOT / "benchmarks" / "results" / f"families-{date.today()}.json"
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--only", action="append", choices=(*FAMILIES, MINI))
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    begun = time.perf_counter()
    values: dict[str, Any] = {}
    for name in given.only or (*FAMILIES, MINI):
        values |= tried(name)
    record = capture(
        subject="families",
        weights=hash_weights(FOLDER),
        measure="families",
        values=values,
        samples=len(TRIED) * len(given.only or (*FAMILIES, MINI)),
        settings={
            "layers": 2,
            "widths": TRIAL_WIDTHS,
            "sizes": FAMILIES,
        },
        seconds=time.perf_counter() - begun,
    )
    sys.stderr.write(f"{record.write(given.out)}\n")


if __name__ == "__main__":
    main()
