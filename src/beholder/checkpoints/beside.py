"""The files beside the weights: tokenizer, settings, licence; they come along in every layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.checkpoints.kept import KEPT_CONFIG, KEPT_LAYOUT
from beholder.checkpoints.lora import CONFIG as ADAPTER_CONFIG
from beholder.checkpoints.reader import INDEX, PICKLED_INDEX

if TYPE_CHECKING:
    from beholder.checkpoints.planning import ModelFamily, Plan

KEPT_FILES = "published_files"
ADDED = "added.json"
NOT_COPIED = {"config.json", INDEX, PICKLED_INDEX, KEPT_CONFIG, KEPT_LAYOUT}
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
OF_TOKENIZERS = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "generation_config")


def copy_other_files(source: Path, target: Path) -> None:
    """Tokenizer, generation settings, licence, also in folders: whatever is neither weights nor layout."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        is_hidden = any(part.startswith(".") for part in inside.parts)
        if not path.is_file() or is_hidden or path.suffix in WEIGHT_SUFFIXES or str(inside) in NOT_COPIED:
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside)


def take_from_base(base: Path, target: Path) -> None:
    """What makes a merged folder a whole one: the base model's tokenizer, and no adapter to look for."""
    (target / ADAPTER_CONFIG).unlink(missing_ok=True)
    if not any((target / name).is_file() for name in TOKENIZERS):
        copy_tokenizer(base, target)


def copy_tokenizer(source: Path, target: Path) -> None:
    """What belongs to the tokenizer, and how answers are generated."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name.startswith(OF_TOKENIZERS) and path.suffix not in WEIGHT_SUFFIXES:
            shutil.copyfile(path, target / path.name)


def write_other_files(
    source: Path, target: Path, plan: Plan, family: ModelFamily, to: str, base: str | Path | None
) -> None:
    """Files that a layout has besides: written by the family, and taken back when the published one is
    written.

    A published file that is written anew is kept in a folder of its own.
    """
    kept = target / KEPT_FILES
    if to == "published":
        note = kept / ADDED
        added: list[str] = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else []
        for name in added:
            (target / name).unlink(missing_ok=True)
        for path in sorted(kept.glob("*")):
            if path.name != ADDED:
                os.replace(path, target / path.name)
        shutil.rmtree(kept, ignore_errors=True)
        return
    if (write := getattr(family, "other_files", None)) is None or kept.is_dir():
        return
    kept.mkdir()
    for path in sorted(target.glob("*")):
        if path.is_file() and path.suffix != ".safetensors" and path.name not in NOT_COPIED:
            shutil.copyfile(path, kept / path.name)
    before = {path.name for path in target.glob("*")}
    write(target, source, plan.config, to, base)
    added = sorted({path.name for path in target.glob("*")} - before)
    (kept / ADDED).write_text(json.dumps(added), encoding="utf-8")
