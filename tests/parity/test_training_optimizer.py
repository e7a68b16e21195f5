"""Parameters are grouped by decay and learning rate as LLaVA groups them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parity.golden_llava import model_of, told

from beholder.families.llava.layout import published
from beholder.training.optimizer import build_optimizer
from beholder.training.stages import Recipe, freeze

PROJECTOR = "model.multi_modal_projector"
CASES: dict[str, dict[str, Any]] = {
    "no_projector_lr": {"learning_rate": 2e-5},
    "projector_lr_2e-5": {"learning_rate": 2e-4, "learning_rates": {PROJECTOR: 2e-5}},
}


@pytest.mark.parametrize("case", CASES)
def test_groups(case: str) -> None:
    model = model_of("llava")
    recipe = Recipe(
        name="test/groups", model="x", output=Path("x"), data=[{"rows": "x", "pictures": "x"}],
        trainable=[PROJECTOR, "model.language_model", "lm_head"], weight_decay=0.1, epochs=1, global_batch=1,
        device_batch=1, max_length=1, **CASES[case],
    )  # fmt: skip
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        freeze(model, recipe)
        optimizer = build_optimizer(model, recipe)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trains[name])
    table, names = published(model.config), {id(p): name for name, p in model.named_parameters()}
    ours = {
        (group["weight_decay"], group["lr"]): {table.theirs(names[id(p)]) for p in group["params"]}
        for group in optimizer.param_groups
    }
    recorded = told("llava/optimizer.json")[case]
    assert ours == {(group["weight_decay"], group["lr"]): set(group["names"]) for group in recorded["groups"]}
    assert list(optimizer.defaults["betas"]) == recorded["defaults"]["betas"]
    assert optimizer.defaults["eps"] == recorded["defaults"]["eps"]
