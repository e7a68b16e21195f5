"""LLaVA-1.5 and InternVL-Chat: pixels, tiles, the text of every template, ids and labels of training rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from beholder.families.llava.prompts import Sample, SampleMaker
from beholder.families.llava.templates import END, START, template_named
from beholder.families.llava.views import LlavaImageProcessor
from beholder.families.parity import EXACT, Found, difference, unequal
from beholder.processing.pieces import Marking, PieceEncoder
from beholder.processing.templates import Segment, rendered_text

# The start of the names of the recorded image processors of each kind.
PROCESSORS = {"llava": ("tiny_clip", "clip_"), "internvl": ("intern_",)}
STRIDE = 7  # of big pictures every seventh pixel was recorded, and the digest of all
# How the tokenizers of two generations of transformers put a marker into the text.
RECORDS: dict[str, tuple[str, Marking]] = {
    "current": ("records.json", "current"),
    "release": ("records_transformers_4.31.0_v1.json", "stripped"),
}
VERSIONS = {"v1": "vicuna_v1"}  # what the training script calls a template


def compare(folder: Path, name: str) -> Iterator[Found]:
    """Every stage before the model; rows were recorded once, for both kinds share their code."""
    yield from _pixels(folder / "preprocess", name)
    yield from _texts(folder, name)
    if name == "llava":
        yield from _tiles(folder)
        yield from _rows(folder)


def _pixels(folder: Path, name: str) -> Iterator[Found]:
    io, info = load_file(folder / "io.safetensors"), json.loads((folder / "info.json").read_text())
    for processor, settings in info["processors"].items():
        if not processor.startswith(PROCESSORS[name]):
            continue
        side = settings["crop_size"]["height"]
        for mode in ("pad", "square"):
            views = LlavaImageProcessor(side, settings["image_mean"], settings["image_std"], mode)
            for picture in info["images"]:
                pixels = torch.from_numpy(views.view(_opened(folder, picture)))
                key = f"{processor}.{mode}.{picture}"
                yield Found("pixels (bit for bit)", key, _pixel_difference(pixels, io, info, key), EXACT)


def _pixel_difference(pixels: Tensor, io: dict[str, Tensor], info: dict[str, Any], key: str) -> float:
    if key in io:
        return difference(pixels, io[key])
    far = difference(pixels[:, ::STRIDE, ::STRIDE], io[f"{key}.every{STRIDE}"])
    digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    return max(far, unequal(digest, info["full"][key]["sha256"]))


def _opened(folder: Path, name: str) -> Image.Image:
    return Image.open(folder / f"{name}.png").convert("RGB")


def _tiles(folder: Path) -> Iterator[Found]:
    io = load_file(folder / "preprocess" / "io.safetensors")
    cases = json.loads((folder / "llava" / "cases.json").read_text())
    side = io["tiny_clip.anyres.square"].shape[-1]
    choices = cases["anyres"]["image_grid_pinpoints"]
    views = LlavaImageProcessor(side, aspect="anyres", grid_pinpoints=choices)
    for key, wanted in io.items():
        if key.startswith("tiny_clip.anyres."):
            tiles = torch.from_numpy(views.tiles(_opened(folder / "preprocess", key.rpartition(".")[2])))
            yield Found("tiles (bit for bit)", key, difference(tiles, wanted), EXACT)


def _texts(folder: Path, name: str) -> Iterator[Found]:
    golden = json.loads((folder / "prompts" / f"{name}.json").read_text())
    for title, cases in golden["rendered"].items():
        template = template_named(title)
        for case, wanted in cases.items():
            if isinstance(wanted, dict):  # the original raises here
                continue
            turns: list[tuple[str, list[Segment] | None]] = []
            for question, answer in golden["messages"][case]:
                turns.append((template.roles[0], [Segment("text", question)]))
                turns.append((template.roles[1], None if answer is None else [Segment("text", answer)]))
            text = rendered_text(template.segments(turns), "<image>")
            yield Found("texts of templates", f"{title}/{case}", unequal(text, wanted), EXACT)


def _rows(folder: Path) -> Iterator[Found]:
    for generation, (file, marking) in RECORDS.items():
        for record in json.loads((folder / "tokenization" / file).read_text())["records"]:
            told = f"{generation}/{record['template']}/{record['name']}"
            sample = _sample(folder, record, "legacy" if record["legacy"] else marking)
            far = unequal(sample.input_ids, record["input_ids"])
            yield Found("ids of training rows", told, far, EXACT)
            yield Found("labels of training rows", told, unequal(sample.labels, record["labels"]), EXACT)


def _sample(folder: Path, record: dict[str, Any], marking: Marking) -> Sample:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    has_marks = record["mm_use_im_start_end"]
    if has_marks:
        tokenizer.add_tokens([START, END], special_tokens=True)
    name: str = record["template"]
    template = template_named(VERSIONS.get(name, name))
    maker = SampleMaker(PieceEncoder(tokenizer, marking), template, record["model_max_length"], has_marks)
    return maker.make(record["conversation"], has_image=record["has_image"])
