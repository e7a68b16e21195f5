"""The other families' checkpoints broken in the ways that all share: none of them is called healthy."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_cogvlm import FOLDER as COGVLM
from tests.parity.golden_llava import FOLDER as LLAVA
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.checkpoints.doctor import diagnose
from beholder.families import identify_folder

MODEL = "model.safetensors"
FAMILIES = ("360vl", "internvl", "cogvlm")
# Beginnings of the tower's names.
TOWERS = {"360vl": "model.vision_tower.", "internvl": "model.vision_tower.", "cogvlm": "model.vision.transf"}
SAMPLES = 4


@pytest.fixture
def whole(request, tmp_path, llama3_tokenizer) -> tuple[str, Path]:
    """A family's name and its tiny checkpoint with a tokenizer."""
    name = request.param
    if name == "360vl":
        return name, make_tiny_checkpoint(tmp_path / "model", llama3_tokenizer)
    home = COGVLM if name == "cogvlm" else LLAVA / "internvl"
    if name == "internvl":  # where the heads of so small a tower are told
        shutil.copytree(home / "pretrained", tmp_path / "pretrained")
    folder = Path(shutil.copytree(home / "model", tmp_path / "model"))
    tokenizer = COGVLM / "tokenizer" if name == "cogvlm" else LLAVA / "tokenizer"
    shutil.copy(tokenizer / "tokenizer.model", folder)
    return name, folder


def is_healthy(folder: Path, **options: Any) -> bool:
    return diagnose(folder, identify_folder, **options).is_healthy


def ways(held: dict[str, torch.Tensor], tower: str) -> dict[str, Callable[[dict[str, torch.Tensor]], Any]]:
    """Ways of breaking a checkpoint's tensors; which ones, chance says, always in the same way."""
    chance = random.Random(7)
    names = sorted(held)
    matrices = [name for name in names if held[name].ndim == 2 and len(set(held[name].shape)) == 2]
    inside = [name for name in names if name.startswith(tower)]
    found: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {}
    for name in (*chance.sample(names, SAMPLES), chance.choice(inside), "lm_head.weight"):
        found[f"dropped {name}"] = lambda held, name=name: held.pop(name)
        found[f"renamed {name}"] = lambda held, name=name: held.update({f"{name}x": held.pop(name)})
        found[f"shorter {name}"] = lambda held, name=name: held.update({name: held[name][:-1]})
        found[f"whole numbers {name}"] = lambda held, name=name: held.update(
            {name: held[name].to(torch.int8)}
        )
    for name in chance.sample(matrices, SAMPLES):
        found[f"turned {name}"] = lambda held, name=name: held.update({name: held[name].T})
    found["half a tower"] = lambda held: [held.pop(name) for name in inside[::2]]
    return found


def write(folder: Path, held: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / MODEL, {"format": "pt"})


@pytest.mark.parametrize("whole", FAMILIES, indirect=True)
def test_broken_tensors(whole):
    name, folder = whole
    assert diagnose(folder, identify_folder, deep=True).findings == ()
    original = load_file(folder / MODEL)
    unseen = []
    for way, damage in ways(original, TOWERS[name]).items():
        held = dict(original)
        damage(held)
        write(folder, held)
        if is_healthy(folder):
            unseen.append(way)
    assert not unseen


@pytest.mark.parametrize("whole", FAMILIES, indirect=True)
def test_turned_bits_of_a_header(whole):
    """Wherever a bit of the header is turned over, it shows, unless both headers say the same."""
    _, folder = whole
    data = (folder / MODEL).read_bytes()
    length = int.from_bytes(data[:8], "little")
    chance, unseen = random.Random(11), []
    for position in chance.sample(range(8 + length), 25):
        bit = chance.randrange(8)
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        (folder / MODEL).write_bytes(bytes(changed))
        if is_healthy(folder) and not says_the_same(data, bytes(changed)):
            unseen.append((position, bit))
    assert not unseen


def says_the_same(one: bytes, other: bytes) -> bool:
    heads = []
    for data in (one, other):
        try:
            head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        except ValueError:
            return False
        head.pop("__metadata__", None)
        heads.append(head)
    return heads[0] == heads[1]


def test_a_tower_that_is_left_out_must_be_somewhere(tmp_path, llama3_tokenizer):
    """360VL's tower may lie in a folder of its own."""
    folder = make_tiny_checkpoint(tmp_path / "model", llama3_tokenizer)
    held = load_file(folder / MODEL)
    prefix = "model.vision_tower.vision_tower."
    tower = {name.removeprefix(prefix): held.pop(name) for name in list(held) if name.startswith(prefix)}
    write(folder, held)
    assert "holds no vision tower" in str(diagnose(folder, identify_folder).findings)
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": "tower"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tower").mkdir()
    assert not is_healthy(folder)
    described = config["vision_config"] | {"model_type": "clip_vision_model"}
    (folder / "tower" / "config.json").write_text(json.dumps(described))
    write(folder / "tower", tower)
    assert diagnose(folder, identify_folder).findings == ()
    tower.popitem()
    write(folder / "tower", tower)
    assert "are missing or of another shape" in str(diagnose(folder, identify_folder).findings)
