"""What vLLM calls in each of its processes before it opens a model (entry point `vllm.general_plugins`)."""

from __future__ import annotations

from typing import Any, cast

from beholder.serving.vllm.names import EXPERTS_ARCHITECTURE, TEXT_ARCHITECTURE

MODELS = {
    TEXT_ARCHITECTURE: "beholder.serving.vllm.text:BeholderText",
    EXPERTS_ARCHITECTURE: "beholder.serving.vllm.experts:BeholderExperts",
}


def register() -> None:
    """Make our models known: to transformers, whose Auto classes vLLM asks, and to vLLM's own table."""
    import vllm  # pyright: ignore[reportMissingImports]

    import beholder as _beholder  # noqa: F401  # pyright: ignore[reportUnusedImport]

    registry: Any = cast("Any", vllm).ModelRegistry
    for architecture in MODELS.keys() - registry.get_supported_archs():
        # By name, so that vLLM's parent processes do not import torch for it.
        registry.register_model(architecture, MODELS[architecture])
