"""One of two processes that train together, started by test_training_processes.py as by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate.utils import DistributedType
from tests.equality.training_cases import recipe

from beholder.training import settings
from beholder.training.run import run

TOGETHER: dict[str, Any] = {"grouping": "length", "steps": 4, "global_batch": 4, "device_batch": 2}
LORA: dict[str, Any] = {
    "lora": {"rank": 2, "alpha": 4, "targets": {"model.language_model": ["q_proj", "down_proj"]}},
    "trainable": ("model.multi_modal_projector",),
}


def spread_on_cpus(change: pytest.MonkeyPatch) -> None:
    """Have FSDP2 on CPUs: accelerate spreads a model on accelerators alone, so it takes these for some."""
    choose_device, sharding = PartialState.set_device, settings.sharding

    def as_accelerators(state: Any) -> None:
        choose_device(state)
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU

    def anywhere(*given: Any, on_cpu: bool) -> dict[str, Any]:
        return sharding(*given, on_cpu=False)

    change.setattr(PartialState, "set_device", as_accelerators)
    change.setattr(settings, "sharding", anywhere)


def main(kind: str, name: str, folder: Path, output: Path) -> None:
    """A whole stage: `ddp`, `fsdp2`, or `fsdp2-lora`."""
    more = TOGETHER | (LORA if kind.endswith("lora") else {})
    with pytest.MonkeyPatch.context() as change:
        if kind.startswith("fsdp2"):
            spread_on_cpus(change)
            more |= {"sharding": "fsdp2", "save_every": 2}
        run(recipe(name, folder, output, **more))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
