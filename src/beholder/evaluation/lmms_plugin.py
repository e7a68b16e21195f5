"""What lmms-eval asks when it lists its models (entry point `lmms_eval.models`): ours, under `beholder`."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def manifest() -> Any:
    """The entry in lmms-eval's table; the model's module is imported when somebody chooses it."""
    registry = import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(
        model_id="beholder", simple_class_path="beholder.evaluation.lmms_model.BeholderModel"
    )
