"""What goes wrong with LLaVA's folders in particular: adapters without their projector, model types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beholder.checkpoints.findings import Finding
from beholder.checkpoints.lora import CONFIG, WEIGHTS, is_adapter, read_settings
from beholder.checkpoints.reader import has_weights, read_config, read_contents, tensor_names
from beholder.core.errors import BeholderError
from beholder.families.llava.published import is_published
from beholder.families.llava.sources import BESIDE_LORA, PROJECTOR_FILE, base_of

PROJECTOR = "model.mm_projector."


def symptoms(folder: Path, base: str | Path | None) -> tuple[list[Finding], list[str]]:
    """What is wrong, and what is worth knowing."""
    config = read_config(folder)
    return [*_adapter(folder, base), *_names(folder, config)], _notes(folder, config)


def _adapter(folder: Path, base: str | Path | None) -> list[Finding]:
    has_config = (folder / CONFIG).is_file()
    halves = [name for name in WEIGHTS if (folder / name).is_file()]
    if has_config and not halves:
        return [
            Finding(
                f"there is {CONFIG} and neither {' nor '.join(WEIGHTS)}",
                "fetch the adapter's weights; if it was merged into a whole model, remove this file",
            )
        ]
    if halves and not has_config:
        return [
            Finding(
                f"there is {halves[0]} and no {CONFIG}", f"fetch {CONFIG}: it says how the adapter counts"
            )
        ]
    if not is_adapter(folder) or (folder / BESIDE_LORA).is_file():
        return []
    try:
        origin = base_of(folder, base)
        if any(name.startswith(PROJECTOR) for name in read_contents(origin).tensors):
            return []
        of_base = f", and {origin} has none"
    except BeholderError:
        of_base = ""
    return [
        Finding(
            f"{BESIDE_LORA} is missing, which holds the projector that was trained beside the "
            f"adapter{of_base}",
            f"fetch {BESIDE_LORA} from where the adapter came from",
        )
    ]


def _names(folder: Path, config: dict[str, Any]) -> list[Finding]:
    """A configuration of one layout beside tensors of the other."""
    names = tensor_names(folder)
    has_published = any(name.startswith((PROJECTOR, "model.layers.")) for name in names)
    if is_published(config) or not has_published:
        return []
    return [
        Finding(
            "config.json is ill-typed: it describes transformers' own layout, and the tensors have the "
            "published names",
            "take config.json from where the tensors came from: there, mm_vision_tower names the tower",
        )
    ]


def _notes(folder: Path, config: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    if is_published(config) and config.get("model_type") == "llava":
        notes.append(
            'config.json says model_type "llava", as transformers\' own class does: without beholder, '
            'transformers opens it with random weights; "llava_llama", or `beholder convert --to llava-hf`, '
            "avoids that"
        )
    if has_weights(folder) and (folder / PROJECTOR_FILE).is_file():
        notes.append(f"{PROJECTOR_FILE} is not used: the folder holds a whole model")
    if is_adapter(folder):
        named = read_settings(folder).get("base_model_name_or_path")
        named = named or config.get("_name_or_path") or "not named"
        notes.append(f"this is an adapter, which needs its base model: {named}")
    elif (folder / PROJECTOR_FILE).is_file() and not has_weights(folder):
        notes.append(
            f"this is a projector, which needs its base model: {config.get('_name_or_path') or 'not named'}"
        )
    return notes
