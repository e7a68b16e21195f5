"""The vision tower of a published checkpoint: what it looks like, and where its weights are.

The published `config.json` names its tower and does not describe it. Here the description comes from the
checkpoint's own tensors, from the tower's folder, or from what is known of published towers; the name alone
decides nothing that the tensors can tell, and the checkpoint's own path nothing at all.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from beholder.checkpoints.reader import read_contents
from beholder.checkpoints.shards import TensorHeader
from beholder.core.errors import CheckpointError, ConfigError
from beholder.core.hub import HUB_ID, find_checkpoint

PREFIX = "model.vision_tower.vision_tower."
PATCH = 14
HEAD = 128  # numbers in a head of every published InternViT
INTERN_TYPES = ("intern_vit_6b", "internvl_vision")

LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
INTERN = {
    "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 48, "num_attention_heads": 25,
    "patch_size": 14,
}  # fmt: skip
CLIPS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": LARGE | {"image_size": 336},
    "openai/clip-vit-large-patch14": LARGE | {"image_size": 224},
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 224, "projection_dim": 1024, "hidden_act": "gelu",
    },
}  # fmt: skip
INTERNS: dict[str, dict[str, Any]] = {
    "OpenGVLab/InternViT-6B-224px": INTERN | {"image_size": 224},
    "OpenGVLab/InternViT-6B-448px": INTERN | {"image_size": 448},
    "OpenGVLab/InternViT-6B-448px-V1-0": INTERN | {"image_size": 448},
    "OpenGVLab/InternViT-6B-448px-V1-2": INTERN | {"image_size": 448, "num_hidden_layers": 45},
    "OpenGVLab/InternViT-6B-448px-V1-5": INTERN | {"image_size": 448, "num_hidden_layers": 45},
}
CLIP_KEYS = {
    "attention_dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": ..., "image_size": ...,
    "intermediate_size": ..., "layer_norm_eps": 1e-5, "num_attention_heads": ..., "num_channels": 3,
    "num_hidden_layers": ..., "patch_size": ..., "projection_dim": 512,
}  # fmt: skip
INTERN_KEYS = {  # published -> transformers'
    "attention_dropout": "attention_dropout",
    "dropout": "hidden_dropout_prob",
    "hidden_act": "hidden_act",
    "hidden_size": "hidden_size",
    "image_size": "image_size",
    "initializer_factor": "layer_scale_init_value",
    "intermediate_size": "intermediate_size",
    "layer_norm_eps": "layer_norm_eps",
    "num_attention_heads": "num_attention_heads",
    "num_channels": "num_channels",
    "num_hidden_layers": "num_hidden_layers",
    "patch_size": "patch_size",
    "qk_normalization": "use_qk_norm",
    "qkv_bias": "attention_bias",
}
INTERN_DEFAULTS = {
    "qk_normalization": True,
    "qkv_bias": False,
    "layer_norm_eps": 1e-6,
    "initializer_factor": 0.1,
}
# The original shows a tower of 224 pixels 336, and one whose path holds "448" its own 448.
INTERN_INPUT = 336
INTERN_LARGE = 448


@dataclass(frozen=True)
class Tower:
    """A tower's configuration for transformers, its width, and the side of picture that it is shown."""

    config: dict[str, Any]
    width: int
    input_size: int | None  # None: what the configuration says


def describe(config: dict[str, Any], folder: Path | None) -> Tower:
    """The tower that a published `config.json` means."""
    held = held_tensors(folder) if folder is not None else {}
    stored = config.get("vision_config") or _stored(config.get("mm_vision_tower"), folder, held)
    if stored.get("model_type") in INTERN_TYPES:
        return _intern(stored, held, config.get("input_size"))
    clip = {key: stored.get(key, default) for key, default in CLIP_KEYS.items()}
    if lacking := sorted(key for key, value in clip.items() if value is ...):
        raise ConfigError(f"the vision tower is not described completely: {', '.join(lacking)} is not known")
    return Tower({"model_type": "clip_vision_model", **clip}, clip["hidden_size"], config.get("input_size"))


def to_published(config: Any) -> dict[str, Any]:
    """The keys of a published `config.json` that spell out a tower which its name does not describe."""
    tower = config.vision_config.to_dict()
    told: dict[str, Any] = {"input_size": config.input_size}
    if tower["model_type"] == "internvl_vision":
        spelled = {theirs: tower[ours] for theirs, ours in INTERN_KEYS.items()}
        spelled |= {key: _side(spelled[key]) for key in ("image_size", "patch_size")}
        known = INTERNS.get(config.base_vision_tower or "")
        if known is not None and all(
            spelled[key] == value for key, value in known.items() if key != "image_size"
        ):
            return {}
        return told | {"vision_config": {"model_type": "intern_vit_6b", **spelled}}
    spelled = {key: tower[key] for key in CLIP_KEYS}
    known = CLIPS.get(config.base_vision_tower or "")
    if known is not None and all(spelled[key] == value for key, value in known.items()):
        return {}
    return told | {"vision_config": {"model_type": "clip_vision_model", **spelled}}


def place_of(name: str | None, folder: Path | None) -> Path | None:
    """The folder of a tower that is on this machine.

    A relative path starts at the checkpoint's folder, at the folder beside it, or, as in the original, where
    the program was started; the first of them that has a config.json counts.
    """
    if not name:
        return None
    beside = () if folder is None else (folder, folder.resolve().parent)
    candidates = (start / Path(name).expanduser() for start in (*beside, Path()))
    return next((place for place in candidates if (place / "config.json").is_file()), None)


def find(name: str | None, folder: Path | None) -> Path:
    """The same, or the folder in the download cache that a hub id stands for, fetched if need be."""
    if (place := place_of(name, folder)) is not None:
        return place
    if name and HUB_ID.fullmatch(name):
        return find_checkpoint(name)
    raise CheckpointError(
        "the checkpoint holds no vision tower, and "
        + (
            f"its mm_vision_tower {name!r} is neither a folder nor a hub id"
            if name
            else "config.json names none"
        )
        + "; set mm_vision_tower in config.json to a folder or a hub id"
    )


def held_tensors(folder: Path) -> dict[str, TensorHeader]:
    """The tower's tensors in the checkpoint itself, by their names within the tower; none if it has none."""
    stamps = tuple(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.glob("*"))
        if path.suffix in (".safetensors", ".bin", ".json")
    )
    return dict(_held_tensors(folder, stamps))


@lru_cache(maxsize=8)
def _held_tensors(folder: Path, stamps: tuple[Any, ...]) -> dict[str, TensorHeader]:
    try:
        tensors = read_contents(folder).tensors
    except CheckpointError:  # opening the checkpoint says what is wrong with it
        return {}
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


def is_intern(config: dict[str, Any], names: Any, folder: Path | None) -> bool:
    """Whether the tower of a published checkpoint is an InternViT: by tensors, folder, or the name it has."""
    held = [name for name in names if name.startswith(PREFIX)]
    if held:
        return any(".attn.qkv." in name for name in held)
    if isinstance(config.get("vision_config"), dict):
        return config["vision_config"].get("model_type") in INTERN_TYPES
    name = config.get("mm_vision_tower") or config.get("vision_tower")
    if (place := place_of(name, folder)) is not None:
        return json.loads((place / "config.json").read_text("utf-8")).get("model_type") in INTERN_TYPES
    return name in INTERNS


def _stored(name: str | None, folder: Path | None, held: dict[str, TensorHeader]) -> dict[str, Any]:
    """A description of the tower from wherever there is one."""
    if (place := place_of(name, folder)) is not None:
        stored = json.loads((place / "config.json").read_text("utf-8"))
        return stored.get("vision_config", stored) if stored.get("model_type") == "clip" else stored
    if name in INTERNS or any(".attn.qkv." in key for key in held):
        known = INTERNS.get(name or "", {})
        return {"model_type": "intern_vit_6b", **(known or _measured(held))}
    if name in CLIPS:
        return {**CLIPS[name]}
    if name and HUB_ID.fullmatch(name) and not held:
        return _stored(str(find_checkpoint(name).resolve()), None, held)
    raise ConfigError(
        f"the shape of the vision tower {name!r} is unknown: it is none of {', '.join((*CLIPS, *INTERNS))}, "
        "there is no folder of that name with a config.json, and config.json has no vision_config"
    )


def _measured(held: dict[str, TensorHeader]) -> dict[str, Any]:
    """An InternViT's geometry from its tensors; heads are 128 wide in every published one."""
    width, _, patch, _ = held["embeddings.patch_embedding.weight"].shape
    if width % HEAD:
        raise ConfigError(
            f"the InternViT in the checkpoint is {width} wide, which is no multiple of {HEAD}, so its "
            "tensors do not tell how many heads it has; put the folder that mm_vision_tower names beside the "
            "checkpoint"
        )
    depth = 1 + max(int(name.split(".")[2]) for name in held if name.startswith("encoder.layers."))
    grid = math.isqrt(held["embeddings.position_embedding"].shape[1] - 1)
    return {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // HEAD,
        "intermediate_size": held["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "patch_size": patch, "image_size": grid * patch,
    }  # fmt: skip


def _intern(stored: dict[str, Any], held: dict[str, TensorHeader], input_size: int | None) -> Tower:
    """An InternViT. The table of positions in the checkpoint, if any, says what size it was trained on."""
    told = INTERN_DEFAULTS | stored
    config = {ours: told[theirs] for theirs, ours in INTERN_KEYS.items() if theirs in told}
    if "norm_type" in stored:  # transformers' own form
        config |= {key: stored[key] for key in ("use_qk_norm", "attention_bias") if key in stored}
    native, patch = _side(config["image_size"]), _side(config["patch_size"])
    if (table := held.get("embeddings.position_embedding")) is not None:
        native = shown = math.isqrt(table.shape[1] - 1) * patch
    else:
        shown = native if native == INTERN_LARGE else INTERN_INPUT
    config |= {
        "model_type": "internvl_vision", "norm_type": "rms_norm", "image_size": [native, native],
        "patch_size": [patch, patch], "use_mean_pooling": True,
    }  # fmt: skip
    given = input_size or shown
    return Tower(config, config["hidden_size"], None if given == native else given)


def _side(value: Any) -> int:
    return value[0] if isinstance(value, (list, tuple)) else value
