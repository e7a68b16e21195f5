"""360VL: CLIP on five views, two C-Abstractors, Llama-3 (360CVGroup/360VL)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.families.family import WHOLE, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from beholder.checkpoints.findings import Finding
    from beholder.checkpoints.keys import KeyTable
    from beholder.grounding.habits import Habits

PUBLISHED_WIDTHS = (4096, 8192)


def _config_classes() -> tuple[type[PreTrainedConfig], ...]:
    from beholder.families.qh360vl.config import PublishedQH360VLConfig, QH360VLConfig

    return QH360VLConfig, PublishedQH360VLConfig


def _model_class() -> type[PreTrainedModel]:
    from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

    return QH360VLForConditionalGeneration


def _auto_models() -> dict[str, type[PreTrainedModel]]:
    from beholder.families.qh360vl.modeling import QH360VLModel

    whole = _model_class()
    return {"AutoModel": QH360VLModel, **dict.fromkeys(WHOLE, whole)}


def _processor_class() -> type[ProcessorMixin]:
    from beholder.families.qh360vl.processing import QH360VLProcessor

    return QH360VLProcessor


def _key_table(config: Any) -> KeyTable:
    from beholder.families.qh360vl.layout import PUBLISHED

    return PUBLISHED


def _config_from_published(config: dict[str, Any], folder: Path) -> PreTrainedConfig:
    from beholder.families.qh360vl.config import QH360VLConfig

    return QH360VLConfig.from_published(config, folder)


def _config_to_published(config: Any) -> dict[str, Any]:
    return config.to_published()


def _symptoms(folder: Path, base: str | Path | None) -> tuple[list[Finding], list[str]]:
    from beholder.families.qh360vl.symptoms import symptoms

    return symptoms(folder, base)


def _describe(config: Any) -> dict[str, Any]:
    """The geometry, from a `config.json` of either layout or from our configuration."""
    if isinstance(config, dict):
        from beholder.families.qh360vl.config import QH360VLConfig

        config = QH360VLConfig.from_dict(dict(config))
    tower, projector, text = config.vision_config, config.projector_config, config.text_config
    return {
        "views": {
            "corners": "4 corners as one map + whole",
            "separate": "4 corners + whole",
            "single": "whole",
        }[config.views],
        "vision_tower": (
            f"CLIP {tower.num_hidden_layers} x {tower.hidden_size}, {tower.image_size} px in patches of "
            f"{tower.patch_size}, {config.tower_depth} layers used"
        ),
        "projector": (
            f"C-Abstractor {projector.depth} + {projector.depth} x {projector.hidden_size}, "
            f"{projector.queries} queries"
        ),
        "slots_per_picture": config.slots_per_picture,
        "language_model": (
            f"Llama {text.num_hidden_layers} x {text.hidden_size}, {text.num_attention_heads} heads "
            f"({text.num_key_value_heads} for keys), vocabulary {text.vocab_size}"
        ),
        "context": text.max_position_embeddings,
        "picture_shape": "padded to a square"
        if config.image_aspect_ratio == "pad"
        else "stretched to a square",
        "template": "Llama-3",
    }


def _boxes(config: Any, processor: Any) -> Habits:
    """The published sizes were asked as in LLaVA's data; smaller ones are our own and asked in our words."""
    from beholder.grounding.habits import EXPRESSION, Habits

    if config.text_config.hidden_size in PUBLISHED_WIDTHS:
        return Habits(dialects=("unit-list", "thousandths"), **EXPRESSION)
    return Habits(dialects=("thousandths", "unit-list"))


FAMILY = Family(
    name="qh360vl",
    title="360VL",
    hub_ids=("qihoo360/360VL-8B", "qihoo360/360VL-70B"),
    published_model_types=("QH_360VL",),
    model_types=("qh_360vl",),
    tensor_marks=("model.mm_projector_ctt.", "model.mm_projector_ori.", "model.corner_abstractor."),
    config_classes=_config_classes,
    model_class=_model_class,
    auto_models=_auto_models,
    processor_class=_processor_class,
    key_table=_key_table,
    config_from_published=_config_from_published,
    config_to_published=_config_to_published,
    describe=_describe,
    symptoms=_symptoms,
    boxes=_boxes,
)
