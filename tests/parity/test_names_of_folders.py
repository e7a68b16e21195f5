"""The name of a folder changes nothing: what a checkpoint is comes from its content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parity.golden_360vl import FOLDER as QH360VL
from tests.parity.golden_cogvlm import FOLDER as COGVLM
from tests.parity.golden_llava import FOLDER as LLAVA
from tests.parity.golden_llava import beside_base

from beholder.checkpoints.inspect import examine
from beholder.checkpoints.loader import check
from beholder.families import identify_folder

NAMES = ("my-model", "llava-lora-intern-360vl", "cogvlm-vicuna-mpt-v0", "448", "OpenGVLab_InternViT-6B-448px")


def copied(source: Path, *beside: Path) -> Callable[[Path, str], Path]:
    """Makes a copy of a folder under another name, with its neighbours under their own."""

    def run(place: Path, name: str) -> Path:
        for neighbour in beside:
            shutil.copytree(neighbour, place / neighbour.name)
        return Path(shutil.copytree(source, place / name))

    return run


def changed(kind: str, own: str) -> Callable[[Path, str], Path]:
    return lambda place, name: beside_base(kind, own, place).rename(place / name)


def golden_360vl(place: Path, name: str) -> Path:
    shutil.copytree(QH360VL / "vision_tower", place / name / "vision_tower")
    for file in ("config.json", "model.safetensors"):
        shutil.copy(QH360VL / file, place / name)
    return place / name


GOLDENS: dict[str, tuple[Callable[[Path, str], Path], str]] = {
    "llava": (copied(LLAVA / "llava" / "model", LLAVA / "llava" / "clip-vit-tiny-patch14-56"), "llava"),
    "internvl": (copied(LLAVA / "internvl" / "model", LLAVA / "internvl" / "pretrained"), "internvl_chat"),
    "lora": (changed("lora", "llava-tiny-lora"), "llava"),
    "stage1": (changed("stage1", "llava-tiny-pretrain"), "llava"),
    "cogvlm": (copied(COGVLM / "model"), "cogvlm"),
    "360vl": (golden_360vl, "qh360vl"),
}


@pytest.mark.parametrize("golden", GOLDENS)
def test_a_name_changes_nothing(golden, tmp_path):
    """Family, layout, geometry, settings and every tensor are those of the first name."""
    make, family = GOLDENS[golden]
    seen = []
    for name in NAMES:
        folder = make(tmp_path / f"in {name}", name)
        found = identify_folder(folder)
        report = examine(folder, found)
        wanted, contents = check(folder, found)
        settings = wanted.config.to_dict()
        assert found.name == family
        assert report.is_whole
        seen.append(
            (
                report.layout,
                report.geometry,
                {key: value for key, value in settings.items() if key != "_name_or_path"},
                {name: tensor.shape for name, tensor in contents.tensors.items()},
                sorted(contents.adapter.pairs) if contents.adapter is not None else None,
            )
        )
    assert all(one == seen[0] for one in seen[1:])
