"""Tiny models of all four families with training rows, for tests of what training spares and spreads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from beholder import families
from beholder.training.stages import Recipe

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FAMILIES = ("llava", "internvl_chat", "qh360vl", "cogvlm")
FOLDERS = {"llava": "llava/llava/model", "internvl_chat": "llava/internvl/model", "cogvlm": "cogvlm/model"}
TRAINABLE = {
    "llava": ("model.multi_modal_projector", "model.language_model", "lm_head"),
    "internvl_chat": ("model.multi_modal_projector", "model.language_model", "lm_head"),
    "qh360vl": ("model.corner_abstractor", "model.whole_abstractor", "model.language_model", "lm_head"),
    "cogvlm": ("model.multi_modal_projector", "model.language_model", "lm_head"),
}


def checkpoint(name: str, place: Path, llama3: Any) -> Path:
    """A folder with a tiny model of the family and a tokenizer."""
    if name == "qh360vl":
        from tests.tiny_checkpoint import make_tiny_checkpoint

        return make_tiny_checkpoint(place / "model", llama3)
    source = GOLDEN / FOLDERS[name]
    folder = Path(shutil.copytree(source, place / source.name))
    tower = GOLDEN / "llava" / "llava" / "clip-vit-tiny-patch14-56"
    if name == "llava":
        shutil.copytree(tower, folder / tower.name)
    if name == "internvl_chat":
        shutil.copytree(GOLDEN / "llava" / "internvl" / "pretrained", folder / "pretrained")
    words = GOLDEN / ("cogvlm" if name == "cogvlm" else "llava") / "tokenizer"
    for file in words.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def write_rows(place: Path, count: int = 8, *, texts_every: int = 3) -> Path:
    """Rows of different length; every so many-th has no picture."""
    rows = []
    for number in range(count):
        question = "What colour is it?" + " Tell me more." * (number % 4)
        row: dict[str, Any] = {"id": f"row {number}"}
        if texts_every and number % texts_every == texts_every - 1:
            marked = question
        else:
            colour = (20 * number % 256, 90, 255 - 20 * number % 256)
            Image.new("RGB", (40 + number, 36), colour).save(place / f"{number}.png")
            row["image"] = f"{number}.png"
            marked = f"<image>\n{question}"
        answer = "A square." + " And a star." * (number % 3)
        row["conversations"] = [{"from": "human", "value": marked}, {"from": "gpt", "value": answer}]
        rows.append(row)
    (place / "rows.json").write_text(json.dumps(rows))
    return place / "rows.json"


def opened(folder: Path) -> tuple[Any, Any]:
    """The model in float32 and its processor."""
    import torch

    from beholder.checkpoints.loader import open_model

    family = families.identify_folder(folder)
    model = open_model(folder, family, device="cpu", dtype=torch.float32)
    return model, family.processor_class().from_pretrained(folder)


def recipe(name: str, folder: Path, output: Path, **changes: Any) -> Recipe:
    """A short stage on the rows beside the folder."""
    values: dict[str, Any] = {
        "name": "test/stage", "model": str(folder), "output": output,
        "data": [{"rows": folder.parent / "rows.json", "pictures": folder.parent}],
        "trainable": TRAINABLE[name], "learning_rate": 1e-3, "steps": 2, "global_batch": 4,
        "device_batch": 2, "max_length": 2048, "precision": "fp32", "attention": "eager", "workers": 0,
        "save_every": 10, "log_every": 1, "always_picture": True,
    }  # fmt: skip
    return Recipe(**(values | changes))
