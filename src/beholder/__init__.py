"""Beholder runs, fine-tunes and scores open vision-language models from the published checkpoints.

Importing it is quick and silent: torch and transformers load when a name that needs them is used. From then
on the Auto classes of transformers know Beholder's model types, whichever of the two was imported first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from beholder.core.imports import install as _rest_while_importing
from beholder.families.registration import install as _install

if TYPE_CHECKING:
    from beholder.answers import AnswerStream
    from beholder.api import VLM, load
    from beholder.core.errors import (
        BeholderError,
        CapacityError,
        CheckpointError,
        ConfigError,
        InputError,
        MissingExtraError,
    )
    from beholder.core.types import Answer, Box, Message, Sampling, Timings, Usage

_HOME = {
    "AnswerStream": "beholder.answers",
    "VLM": "beholder.api",
    "load": "beholder.api",
    "BeholderError": "beholder.core.errors",
    "CapacityError": "beholder.core.errors",
    "CheckpointError": "beholder.core.errors",
    "ConfigError": "beholder.core.errors",
    "InputError": "beholder.core.errors",
    "MissingExtraError": "beholder.core.errors",
    "Answer": "beholder.core.types",
    "Box": "beholder.core.types",
    "Message": "beholder.core.types",
    "Sampling": "beholder.core.types",
    "Timings": "beholder.core.types",
    "Usage": "beholder.core.types",
}

__all__ = [
    "VLM",
    "Answer",
    "AnswerStream",
    "BeholderError",
    "Box",
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "InputError",
    "Message",
    "MissingExtraError",
    "Sampling",
    "Timings",
    "Usage",
    "load",
]

_rest_while_importing()
_install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("beholder")
    if name not in _HOME:
        raise AttributeError(f"module 'beholder' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
