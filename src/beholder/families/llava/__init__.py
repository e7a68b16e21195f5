"""LLaVA: CLIP, a small projector, Llama (haotian-liu/LLaVA), and what others built the same way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.families.family import WHOLE, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from beholder.checkpoints.findings import Finding
    from beholder.checkpoints.keys import KeyTable
    from beholder.checkpoints.reader import Contents
    from beholder.grounding.habits import Habits

PUBLISHED_TYPES = ("llava", "llava_llama")
OWN_TYPES = ("llava", "beholder_llava")
HUB_NAMES = ("language_model.", "vision_tower.", "multi_modal_projector.")


def config_classes() -> tuple[type[PreTrainedConfig], ...]:
    """Ours, and those that open the other model types as ours."""
    from beholder.families.llava.config import BeholderLlavaConfig, OwnLlavaConfig, PublishedLlavaConfig

    return BeholderLlavaConfig, PublishedLlavaConfig, OwnLlavaConfig


def model_class() -> type[PreTrainedModel]:
    """The model with its head."""
    from beholder.families.llava.modeling import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration


def auto_models() -> dict[str, type[PreTrainedModel]]:
    """What the Auto classes open."""
    from beholder.families.llava.modeling import LlavaModel

    whole = model_class()
    return {"AutoModel": LlavaModel, **dict.fromkeys(WHOLE, whole)}


def processor_class() -> type[ProcessorMixin]:
    """What turns conversations into tensors."""
    from beholder.families.llava.processing import LlavaProcessor

    return LlavaProcessor


def key_table(config: Any) -> KeyTable:
    """The published names."""
    from beholder.families.llava.layout import published

    return published(config)


def hub_table(config: Any) -> KeyTable:
    """The names in llava-hf's files."""
    from beholder.core.errors import ConfigError
    from beholder.families.llava.layout import hub

    if not config.is_plain:
        raise ConfigError(
            f"the projector {config.projector_type} or its tiles are not known to transformers' class, "
            "so there is no llava-hf layout of this model; convert it to ours"
        )
    return hub(config)


def own_names(config: Any, names: Iterable[str]) -> tuple[str, KeyTable]:
    """llava-hf's layout, or our own, by the tensors' names."""
    from beholder.families.llava.layout import hub, later_hub

    if any(name.startswith(HUB_NAMES) for name in names):
        return "llava-hf", hub(config)
    return "ours", later_hub(config)


def looks_published(config: dict[str, Any]) -> bool:
    """Whether a config.json is as LLaVA's code writes it."""
    from beholder.families.llava.published import is_published

    return is_published(config)


def has_intern_tower(config: dict[str, Any], names: Iterable[str], folder: Path | None) -> bool:
    """Whether a checkpoint of this kind has InternViT as its tower."""
    if looks_published(config):
        from beholder.families.llava.towers import is_intern

        return is_intern(config, names, folder)
    tower = config.get("vision_config")
    return isinstance(tower, dict) and tower.get("model_type") == "internvl_vision"


def is_ours(config: dict[str, Any], folder: Path | None = None) -> bool:
    """Whether this is any layout of LLaVA's system, whatever its tower.

    transformers' class of the name runs other systems too: those of other parts, and those that write
    conversations otherwise, are not given our templates.
    """
    from beholder.families.llava.published import has_other_parts

    if looks_published(config):
        return True
    if config.get("model_type") not in OWN_TYPES or "text_config" not in config or has_other_parts(config):
        return False
    return config.get("template") is not None or folder is None or not speaks_otherwise(folder)


def speaks_otherwise(folder: Path) -> bool:
    """Whether a folder has a conversation template in which nobody is called ASSISTANT, as all are here."""
    import json

    found: list[str] = []
    if (path := folder / "chat_template.jinja").is_file():
        found.append(path.read_text("utf-8"))
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (path := folder / name).is_file():
            try:
                told = json.loads(path.read_text("utf-8"))
            except ValueError:  # opening it says so
                continue
            if isinstance(told, dict) and isinstance(template := told.get("chat_template"), str):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                found.append(template)
    return bool(found) and not any("ASSISTANT" in template for template in found)


def config_from_published(config: dict[str, Any], folder: Path) -> PreTrainedConfig:
    """From a published config.json."""
    from beholder.families.llava.config import BeholderLlavaConfig

    return BeholderLlavaConfig.from_published(config, folder)


def config_to_published(config: Any) -> dict[str, Any]:
    """To a published config.json."""
    return config.to_published()


def padded(config: Any) -> dict[str, int]:
    """The parameters whose last rows are not stored in published files."""
    from beholder.families.llava.layout import padded

    return padded(config)


def read(folder: Path, base: str | Path | None) -> Contents:
    """What a folder holds, with its base model."""
    from beholder.families.llava.sources import read

    return read(folder, base)


def complete(contents: Contents, config: Any, folder: Path, layout: str) -> Contents:
    """The same with the tower."""
    from beholder.families.llava.sources import complete

    return complete(contents, config, folder, layout)


def other_files(folder: Path, source: Path, config: Any, layout: str, base: str | Path | None) -> None:
    """Tokenizer and processor as transformers' own classes read them."""
    from beholder.families.llava.export import write_processor

    write_processor(folder, source, config, base)


def symptoms(folder: Path, base: str | Path | None) -> tuple[list[Finding], list[str]]:
    """What `doctor` says of a folder besides the usual."""
    from beholder.families.llava.symptoms import symptoms

    return symptoms(folder, base)


def describe(config: Any) -> dict[str, Any]:
    """The geometry, from a `config.json` of any layout or from our configuration."""
    if isinstance(config, dict):
        from beholder.families.llava.config import BeholderLlavaConfig

        config = BeholderLlavaConfig.from_dict(dict(config))
    tower, text = config.vision_config, config.text_config
    kind = "InternViT" if tower.model_type == "internvl_vision" else "CLIP"
    merged = f" in tiles ({config.patch_merge_type})" if config.cuts_tiles else ""
    return {
        "vision_tower": (
            f"{kind} {tower.num_hidden_layers} x {tower.hidden_size}, {config.picture_side} px in patches of "
            f"{config.patch_side}, features of layer {config.vision_feature_layer}"
        ),
        "projector": config.projector_type,
        "slots_per_picture": config.tile_slots,
        "language_model": (
            f"Llama {text.num_hidden_layers} x {text.hidden_size}, {text.num_attention_heads} heads "
            f"({text.num_key_value_heads} for keys), vocabulary {config.used_rows}"
        ),
        "context": text.max_position_embeddings,
        "picture_shape": ("padded to a square" if config.image_aspect_ratio == "pad" else "cut to a square")
        + merged,
    }


def boxes(config: Any, processor: Any) -> Habits:
    """Since version 1.5, whose projector has two layers, boxes are part of the training data."""
    from beholder.grounding.habits import EXPRESSION, Habits

    untrained = (
        "a LLaVA of before version 1.5 (its projector is linear) was not trained to name boxes; v1.5 was"
        if config.projector_type == "linear"
        else ""
    )
    return Habits(dialects=("unit-list", "thousandths"), untrained=untrained, **EXPRESSION)


PARTS: dict[str, Any] = {
    "published_model_types": PUBLISHED_TYPES,
    "model_types": OWN_TYPES,
    "config_classes": config_classes,
    "model_class": model_class,
    "auto_models": auto_models,
    "processor_class": processor_class,
    "key_table": key_table,
    "config_from_published": config_from_published,
    "config_to_published": config_to_published,
    "describe": describe,
    "looks_published": looks_published,
    "own_names": own_names,
    "other_layouts": {"llava-hf": hub_table},
    "padded": padded,
    "read": read,
    "complete": complete,
    "other_files": other_files,
    "symptoms": symptoms,
    "beside_base": ("model.mm_projector.", "model.vision_tower.", "model.image_newline"),
    "growing": ("model.embed_tokens.weight", "lm_head.weight"),
    "boxes": boxes,
}

FAMILY = Family(
    name="llava",
    title="LLaVA",
    hub_ids=("liuhaotian/llava-v1.5-7b", "liuhaotian/llava-v1.5-13b", "llava-hf/llava-1.5-7b-hf"),
    tensor_marks=("model.mm_projector.0.", "model.mm_projector.weight", "multi_modal_projector."),
    recognises=lambda config, names, folder: (
        is_ours(config, folder) and not has_intern_tower(config, names, folder)
    ),
    **PARTS,
)
