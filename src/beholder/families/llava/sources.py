"""Where the tensors of a published checkpoint are: in it, in the base model it changes, in its tower's
folder.

A stage-1 folder holds a projector (`mm_projector.bin`), a LoRA folder an adapter and what was trained
beside it
(`non_lora_trainables.bin`); both need their base model. Everything is brought under published names here, so
that one key table serves all of them. What the checkpoint itself holds always wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from beholder.checkpoints.lora import is_adapter, read_adapter, read_settings
from beholder.checkpoints.reader import Contents, has_weights, read_config, read_contents, read_file
from beholder.checkpoints.shards import TensorHeader
from beholder.core.errors import CheckpointError
from beholder.core.hub import HUB_ID, find_checkpoint
from beholder.families.llava import towers
from beholder.families.llava.towers import PREFIX

PROJECTOR = "model.mm_projector."
PROJECTOR_FILE = "mm_projector.bin"
BARE = re.compile(r"(\d+\.)?(weight|bias)")
BESIDE_LORA = "non_lora_trainables.bin"
CLIP_PARTS = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")


def read(folder: Path, base: str | Path | None = None) -> Contents:
    """All tensors of a checkpoint but those of a tower that lies elsewhere, under published names."""
    changes = [name for name in (PROJECTOR_FILE, BESIDE_LORA) if (folder / name).is_file()]
    if has_weights(folder) and not is_adapter(folder):
        return read_contents(folder)
    if not changes and not is_adapter(folder):
        return read_contents(folder)  # which says what is missing
    found = read_contents(base_of(folder, base))
    tensors = {name: _at(found.folder, header, name) for name, header in found.tensors.items()}
    for file in changes:
        tensors |= _trained(folder / file)
    adapter = read_adapter(folder, published) if is_adapter(folder) else None
    files = (*changes, *(str(found.folder.resolve() / name) for name in found.files))
    return Contents(folder, files, tensors, adapter, found.folder)


def _trained(file: Path) -> dict[str, TensorHeader]:
    """What was trained beside a base model, under published names; two tensors of one name are an error."""
    found: dict[str, TensorHeader] = {}
    for name, header in read_file(file).items():
        # A projector that was saved by itself has nothing before the numbers of its layers.
        whole = PROJECTOR + name if file.name == PROJECTOR_FILE and BARE.fullmatch(name) else published(name)
        if whole in found:
            raise CheckpointError(f"{file} holds {whole} twice, as {found[whole].name} and as {name}")
        found[whole] = replace(header, name=name)
    return found


def published(name: str) -> str:
    """The published name of a tensor that was saved from within the wrappings of a training.

    PEFT, data parallelism and other language models each put words of their own in front. As in the original
    (get_w in llava_arch.py), a projector's tensor is known by `mm_projector.` wherever it stands.
    """
    for part in (PROJECTOR, PREFIX):
        _, mark, rest = f".{name}".partition(f".{part.removeprefix('model.')}")
        if mark:
            return part + rest
    name = name.removeprefix("module.").removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith(("model.model.", "model.lm_head.")) else name


def complete(contents: Contents, config: Any, folder: Path, layout: str) -> Contents:
    """The contents with the vision tower, which a published checkpoint need not hold."""
    if layout != "published" or any(name.startswith(PREFIX) for name in contents.tensors):
        return contents
    place = towers.find(config.base_vision_tower, folder)
    tower = read_contents(place)
    added = {
        PREFIX + ours: _at(place, header, name)
        for name, header in tower.tensors.items()
        for ours in _within_tower(name, config)
    }
    return replace(contents, tensors=contents.tensors | added)


def _within_tower(name: str, config: Any) -> Iterator[str]:
    """The name within the published tower; none of a tensor that is not the tower's, as of a whole CLIP."""
    if config.vision_config.model_type != "clip_vision_model":
        yield name
    elif name.startswith("vision_model."):
        yield name
    elif name.startswith(CLIP_PARTS):
        yield f"vision_model.{name}"


def _at(folder: Path, header: TensorHeader, name: str) -> TensorHeader:
    """The header of a tensor in another folder."""
    return replace(header, file=str(folder.resolve() / header.file), name=header.name or name)


def base_of(folder: Path, given: str | Path | None) -> Path:
    """The folder of the base model: as given, or as the checkpoint names it."""
    name = str(given) if given is not None else _named_base(folder)
    if not name:
        raise CheckpointError(
            f"{folder} changes a base model and does not name it; give it with base=... (or --base)"
        )
    starts = (Path(),) if given is not None else (folder, folder.resolve().parent, Path())
    for start in starts:
        if (start / Path(name).expanduser() / "config.json").is_file():
            return start / Path(name).expanduser()
    if given is None and not HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"{folder} belongs to the base model {name!r}, which is neither a folder here nor a hub id; "
            "give it with base=... (or --base)"
        )
    return find_checkpoint(name)


def _named_base(folder: Path) -> str | None:
    if is_adapter(folder):
        if named := read_settings(folder).get("base_model_name_or_path"):
            return str(named)
    return read_config(folder).get("_name_or_path") or None
