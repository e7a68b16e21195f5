"""All that a model needs, fetched: tower, base model and tokenizer, where its own files leave them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beholder.checkpoints.lora import CONFIG, is_adapter, read_settings
from beholder.checkpoints.reader import has_weights, read_config, tensor_names
from beholder.core.errors import CheckpointError, ConfigError
from beholder.core.fetching import read_pin
from beholder.core.hub import HUB_ID, Wanted, find_checkpoint, lock_key
from beholder.families import identify_folder

Role = Literal["model", "vision tower", "base model", "tokenizer"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOWER_KEYS = ("mm_vision_tower", "base_vision_tower")
TOWER_MARK = "vision_tower."
# Families whose published files have no tokenizer, and the one that they were trained with.
TOKENIZERS = {"cogvlm": "lmsys/vicuna-7b-v1.5"}


@dataclass(frozen=True)
class Part:
    """One thing that was fetched, or found: `commit` is None for a folder that never came from the hub."""

    role: Role
    name: str
    folder: str
    commit: str | None
    files: int
    bytes: int


def fetch(
    name: str | Path, *, base: str | Path | None = None, update: bool = False, only: Role | None = None
) -> tuple[Part, ...]:
    """Fetch a model with everything that opening it needs; `base` as in `load`.

    What is pinned stays as it is unless `update`. With `only`, just that of `name` itself. CheckpointError
    says which part cannot be had.
    """
    if only == "tokenizer":
        return (_part("tokenizer", str(name), update),)
    parts = [_part("model", str(name), update)]
    waiting = [] if only == "model" else list(needs(Path(parts[0].folder), base))
    while waiting:
        role, other = waiting.pop(0)
        try:
            parts.append(_part(role, other, update))
        except CheckpointError as error:
            raise CheckpointError(
                f"{name} needs its {role} {other}: {error}; then run `beholder fetch {name}` again"
            ) from error
        if role == "base model":
            waiting += [one for one in needs(Path(parts[-1].folder), None) if one[0] != "vision tower"]
    return tuple(parts)


def needs(folder: Path, base: str | Path | None) -> Iterator[tuple[Role, str]]:
    """What a folder leaves out and names, where that is a hub id and not a folder of this machine."""
    if not (folder / "config.json").is_file():
        return
    config = read_config(folder)
    changes_base = is_adapter(folder) or not has_weights(folder)
    if (
        changes_base
        and (named := str(base or _base_of(folder, config) or ""))
        and _is_elsewhere(named, folder)
    ):
        yield "base model", named
    tower = next((config[key] for key in TOWER_KEYS if config.get(key)), None)
    holds_tower = any(TOWER_MARK in name for name in tensor_names(folder))
    if isinstance(tower, str) and not holds_tower and _is_elsewhere(tower, folder):
        yield "vision tower", tower
    has_tokenizer = any((folder / file).is_file() for file in TOKENIZER_FILES)
    if not has_tokenizer and not changes_base and (own := TOKENIZERS.get(_family_name(folder) or "")):
        yield "tokenizer", own


def _base_of(folder: Path, config: dict[str, Any]) -> Any:
    has_settings = (folder / CONFIG).is_file()
    named = read_settings(folder).get("base_model_name_or_path") if has_settings else None
    return named or config.get("_name_or_path")


def _is_elsewhere(name: str, folder: Path) -> bool:
    places = (folder / name, folder.resolve().parent / name, Path(name).expanduser())
    return HUB_ID.fullmatch(name) is not None and not any((p / "config.json").is_file() for p in places)


def _family_name(folder: Path) -> str | None:
    """None where it is nothing that could be asked, as a tower or a language model."""
    try:
        return identify_folder(folder).name
    except ConfigError:
        return None


def _part(role: Role, name: str, update: bool) -> Part:
    what: Wanted = "tokenizer" if role == "tokenizer" else "model"
    folder = find_checkpoint(name, what=what, update=update)
    pin = None if Path(name).expanduser().is_dir() else read_pin(lock_key(name, what))
    if pin is not None:
        return Part(role, name, str(folder), pin.commit, len(pin.files), pin.bytes)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Part(role, name, str(folder), None, len(files), sum(path.stat().st_size for path in files))
