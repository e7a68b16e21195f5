"""What vLLM calls in each of its processes before it opens a model (entry point `vllm.general_plugins`)."""

from __future__ import annotations

from beholder.serving.vllm.names import TEXT_ARCHITECTURE


def register() -> None:
    """Make our models known: to transformers, whose Auto classes vLLM asks, and to vLLM's own table."""
    from vllm import ModelRegistry  # pyright: ignore

    import beholder as _beholder  # noqa: F401  # pyright: ignore[reportUnusedImport]

    registry = ModelRegistry
    if TEXT_ARCHITECTURE not in registry.get_supported_archs():  # pyright: ignore
        # By name, so that vLLM's parent processes do not import torch for it.
        registry.register_model(TEXT_ARCHITECTURE, "beholder.serving.vllm.text:BeholderText")  # pyright: ignore
