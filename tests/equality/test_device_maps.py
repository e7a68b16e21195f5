"""`device_map="auto"` divides a model between its blocks and never inside one, whatever the devices hold."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from beholder.families import family
from beholder.families.geometries import geometry, published_config

NAMES = ("llava-1.5-7b", "internvl-chat-13b-448", "cogvlm-chat", "360vl-8b")
DEVICES = 5  # pretended
SHARES = (0.12, 0.2, 0.27, 0.35, 0.5, 0.8)  # of the model that one device holds


@cache
def built(name: str) -> nn.Module:
    size = geometry(name)
    of = family(size.family)
    config = of.config_from_published(published_config(size, layers=6), Path())
    with torch.device("meta"):
        return of.model_class()(config)


def blocks_of(model: nn.Module) -> list[str]:
    """Everything that stands in a list: layers of towers and decoders, and the stages of projectors."""
    return [
        f"{name}.{number}"
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        for number, one in module.named_children()
        if any(True for _ in one.parameters())
    ]


def place(device_map: dict[str, Any], parameter: str) -> Any:
    fitting = [
        name for name in device_map if not name or parameter == name or parameter.startswith(f"{name}.")
    ]
    assert fitting, f"{parameter} is nowhere"
    return device_map[max(fitting, key=len)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", NAMES)
def test_no_block_is_divided(name, share):
    accelerate = pytest.importorskip("accelerate")
    model = built(name)
    total = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    room = {number: int(total * share) for number in range(DEVICES)} | {"cpu": 2 * total}
    device_map = accelerate.infer_auto_device_map(
        model,
        max_memory=room,
        no_split_module_classes=sorted(model._no_split_modules),  # type: ignore[arg-type]
    )
    blocks = blocks_of(model)
    assert len(blocks) > 10
    for block in blocks:
        owners = {
            place(device_map, f"{block}.{inner}")
            for inner, _ in model.get_submodule(block).named_parameters()
        }
        assert len(owners) == 1, f"{block} lies on {owners}"
    assert len(set(device_map.values())) > 1
