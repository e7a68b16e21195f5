"""Small models of every family, for `vllm_tokens.py`: the goldens with the tokens that the originals said,
and random ones of few layers whose prompts and pictures are whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from beholder.families import Family, family
from beholder.families.geometries import TRIAL
from beholder.families.qh360vl.compatibility import expand
from beholder.families.random_weights import write_random

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
FAMILIES = ("360vl", "llava", "internvl", "cogvlm")
PICTURE = -200  # the placeholder of LLaVA's recorded prompts

RANDOM = {
    "360vl": "360vl-8b", "llava": "llava-1.5-7b", "internvl": "internvl-chat-7b", "cogvlm": "cogvlm-chat",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One recorded prompt: the model's inputs, and the tokens that the original said."""

    name: str
    inputs: dict[str, Tensor]
    tokens: list[int]


def golden(name: str) -> tuple[Family, Path, Any]:
    """The family, the folder and the opened model, in float32."""
    folders = {
        "360vl": GOLDEN / "360vl", "llava": GOLDEN / "llava" / "llava" / "model",
        "internvl": GOLDEN / "llava" / "internvl" / "model", "cogvlm": GOLDEN / "cogvlm" / "model",
    }  # fmt: skip
    kinds = {"360vl": "qh360vl", "llava": "llava", "internvl": "internvl_chat", "cogvlm": "cogvlm"}
    of = family(kinds[name])
    opens: Any = of.model_class()
    return of, folders[name], opens.from_pretrained(folders[name], dtype=torch.float32).eval()


def cases(name: str, model: Any) -> Iterator[Case]:
    """What was recorded for single rows."""
    return {"360vl": _cases_360vl, "cogvlm": _cases_cogvlm}.get(name, _cases_llava)(name, model)


def _cases_360vl(_name: str, model: Any) -> Iterator[Case]:
    io = load_file(GOLDEN / "360vl" / "io.safetensors")
    for case, shown in {"cc": "a", "turn2": "a", "text": "", "multi": "ab"}.items():
        if f"{case}.generated" in io:
            pictures = torch.stack([io[f"pixels.{one}"].float() for one in shown]) if shown else None
            inputs = expand(model.config, io[f"{case}.input_ids"], pictures)
            yield Case(case, inputs, io[f"{case}.generated"][0].tolist())


def _cases_llava(name: str, model: Any) -> Iterator[Case]:
    io = load_file(GOLDEN / "llava" / name / "io.safetensors")
    for key in sorted(io):
        case = key.removesuffix(".generated")
        if case == key or case == "native_resolution":  # that one has a tower of its own
            continue
        pixels, ids = io.get(f"{case}.pixel_values"), io[f"{case}.input_ids"][0].tolist()
        slots = 0 if pixels is None else io[f"{case}.projected_features"].shape[1]
        place = [model.config.used_rows] * slots
        spread = [one for token in ids for one in (place if token == PICTURE else [token])]
        inputs = {"input_ids": torch.tensor([spread])}
        inputs |= {} if pixels is None else {"pixel_values": pixels}
        yield Case(case, inputs, io[f"{case}.generated"][0].tolist())


def _cases_cogvlm(_name: str, _model: Any) -> Iterator[Case]:
    io = load_file(GOLDEN / "cogvlm" / "io.safetensors")
    for key in sorted(io):
        case = key.removesuffix("/greedy_new_tokens")
        if case != key and len(io[key]) == 1:
            names = {"pixels": "pixel_values", "input_ids": "input_ids", "token_type_ids": "token_type_ids"}
            inputs = {ours: io[f"{case}/{name}"] for name, ours in names.items() if f"{case}/{name}" in io}
            yield Case(case, inputs, io[key][0].tolist())


def write_small(name: str, folder: Path) -> Path:
    """A random model of a family with two layers, and everything that a released one has beside it."""
    write_random(RANDOM[name], folder, layers=2, dtype="float32", changes=TRIAL[name])
    return folder
