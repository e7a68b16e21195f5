"""The one place that knows which model families there are. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from beholder.core.errors import CheckpointError, ConfigError
from beholder.families.family import Family

FAMILIES = {
    "qh360vl": "beholder.families.qh360vl",
    "cogvlm": "beholder.families.cogvlm",
    "llava": "beholder.families.llava",
    "internvl_chat": "beholder.families.internvl_chat",
}


def family(name: str) -> Family:
    """The family of that name."""
    if name not in FAMILIES:
        raise ConfigError(f"there is no model family {name!r}; known: {', '.join(FAMILIES)}")
    return import_module(FAMILIES[name]).FAMILY


def identify(config: dict[str, Any], tensor_names: Iterable[str], folder: Path | None = None) -> Family:
    """The family of a checkpoint, from its `config.json` and tensor names and never from its path.

    `folder` is only where relative paths in `config.json` start.
    """
    names = list(tensor_names)
    known = [family(name) for name in FAMILIES]
    for candidate in known:
        if candidate.claims(config, names, folder):
            return candidate
    if (other := _other_family(config, known)) is not None:
        return other
    given = f"model_type {config['model_type']!r}" if "model_type" in config else "no model_type"
    for candidate in known:
        if candidate.has_tensors(names):
            raise ConfigError(
                f"the tensors are {candidate.title}'s but config.json has {given}; "
                f"it should be {' or '.join(candidate.config_marks)}"
            )
    looked_for = "; ".join(f"{candidate.title}: {', '.join(candidate.config_marks)}" for candidate in known)
    raise ConfigError(f"config.json has {given}, which is no family that is known here ({looked_for})")


def _other_family(config: dict[str, Any], known: Iterable[Family]) -> Family | None:
    """A model that only transformers knows. A `model_type` of a known family is one only in transformers'
    own layout, where it may stand for other systems too."""
    from beholder.families.other import other_family

    has_known_type = any(config.get("model_type") in candidate.config_marks for candidate in known)
    mine = has_known_type and "text_config" not in config
    return None if mine else other_family(config)


def identify_folder(folder: Path) -> Family:
    """The family of the checkpoint in a folder."""
    from beholder.checkpoints.reader import read_config, tensor_names
    from beholder.checkpoints.sat import is_sat

    if is_sat(folder):
        raise CheckpointError(
            f"{folder} is a SAT checkpoint ({identify_sat(folder).title}), which is not opened as it is; "
            f"convert it: beholder convert {folder} NEW --to published"
        )
    return identify(read_config(folder), tensor_names(folder), folder)


def identify_sat(folder: Path) -> Family:
    """The family of a SAT checkpoint, from its `model_config.json`."""
    from beholder.checkpoints.sat import read_sat_config

    given = read_sat_config(folder).get("model_class")
    known = [family(name) for name in FAMILIES]
    for candidate in known:
        if given in candidate.sat_model_classes:
            return candidate
    classes = ", ".join(kind for candidate in known for kind in candidate.sat_model_classes)
    raise ConfigError(f"model_config.json has model_class {given!r}, which is unknown; known: {classes}")
