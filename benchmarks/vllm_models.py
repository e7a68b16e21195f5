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
from beholder.families.qh360vl.compatibility import expand
from beholder.families.random_weights import write_random

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
FAMILIES = ("360vl", "llava", "internvl", "cogvlm")
PICTURE = -200  # the placeholder of LLaVA's recorded prompts

# Widths and heads that every engine takes; the towers keep their pictures' sizes.
SMALL = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "vision_config.hidden_size": 64, "vision_config.intermediate_size": 128,
}  # fmt: skip
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "360vl": (
        "360vl-8b",
        {
            "num_key_value_heads": 2, "vision_config.num_attention_heads": 4,
            "visual_projector_config.hidden_size": 64, "visual_projector_config.depth": 1,
        },
    ),
    "llava": ("llava-1.5-7b", {"num_key_value_heads": 4, "vision_config.num_attention_heads": 4}),
    "internvl": ("internvl-chat-7b", {"num_key_value_heads": 4, "vision_config.num_attention_heads": 4}),
    "cogvlm": ("cogvlm-chat", {"vision_config.num_heads": 4, "vision_config.image_size": 224}),
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
    size, changes = RANDOM[name]
    write_random(size, folder, layers=2, dtype="float32", changes=SMALL | changes)
    return folder
