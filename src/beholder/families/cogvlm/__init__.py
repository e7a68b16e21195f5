"""CogVLM: EVA2-CLIP, a gated adapter, and Vicuna with a second set of weights for pictures (THUDM/CogVLM)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.families.family import WHOLE, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from beholder.checkpoints.keys import KeyTable
    from beholder.checkpoints.writer import Conversion
    from beholder.grounding.habits import Habits

SIDE_OF_PRETRAINING = 224


def _config_classes() -> tuple[type[PreTrainedConfig], ...]:
    from beholder.families.cogvlm.config import CogVLMConfig

    return (CogVLMConfig,)


def _model_class() -> type[PreTrainedModel]:
    from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration

    return CogVLMForConditionalGeneration


def _auto_models() -> dict[str, type[PreTrainedModel]]:
    from beholder.families.cogvlm.modeling import CogVLMModel

    whole = _model_class()
    return {"AutoModel": CogVLMModel, **dict.fromkeys(WHOLE, whole)}


def _processor_class() -> type[ProcessorMixin]:
    from beholder.families.cogvlm.processing import CogVLMProcessor

    return CogVLMProcessor


def _key_table(config: Any) -> KeyTable:
    from beholder.families.cogvlm.layout import PUBLISHED

    return PUBLISHED


def _config_from_published(config: dict[str, Any], folder: Path) -> PreTrainedConfig:
    from beholder.families.cogvlm.config import CogVLMConfig

    return CogVLMConfig.from_published(config)


def _config_to_published(config: Any) -> dict[str, Any]:
    return config.to_published()


def _from_sat(source: Path, target: Path, **options: Any) -> Conversion:
    from beholder.families.cogvlm.sat_folders import from_sat

    return from_sat(source, target, **options)


def _config_from_sat(stored: Mapping[str, Any]) -> PreTrainedConfig:
    from beholder.families.cogvlm.sat import config_from_sat, template_of

    return config_from_sat(stored, template_of(stored, None))


def _to_sat(source: Path, target: Path, **options: Any) -> Conversion:
    from beholder.checkpoints.sat import is_sat
    from beholder.families.cogvlm.sat_folders import reshare, to_sat

    return (reshare if is_sat(source) else to_sat)(source, target, **options)


def _describe(config: Any) -> dict[str, Any]:
    """The geometry, from a `config.json` of either layout or from our configuration."""
    if isinstance(config, dict):
        from beholder.families.cogvlm.config import CogVLMConfig

        config = CogVLMConfig.from_dict(dict(config))
    tower, text = config.vision_config, config.text_config
    return {
        "vision_tower": (
            f"EVA2-CLIP {tower.num_hidden_layers} x {tower.hidden_size}, {tower.image_size} px in patches of "
            f"{tower.patch_size}"
        ),
        "projector": f"gated, {tower.hidden_size} to {text.hidden_size} over {text.intermediate_size}",
        "slots_per_picture": config.slots_per_picture,
        "language_model": (
            f"{text.num_hidden_layers} x {text.hidden_size}, {text.num_attention_heads} heads, in each layer "
            f"a language and a vision expert, vocabulary {text.vocab_size}"
        ),
        "context": text.max_position_embeddings,
        "picture_shape": "stretched to a square",
        "template": config.template,
        "rotary_tables": text.rotary_tables,
    }


def _boxes(config: Any, processor: Any) -> Habits:
    """Checkpoints for conversations and short answers were not trained for boxes, nor those of 224 pixels."""
    from beholder.grounding.habits import Habits

    side, untrained = config.vision_config.image_size, ""
    if (template := processor.template) != "base":
        untrained = (
            f"this CogVLM checkpoint is written to in the template {template!r} and was not trained "
            "to name boxes; cogvlm-grounding-generalist was, in the template 'base'"
        )
    elif side == SIDE_OF_PRETRAINING:
        untrained = f"CogVLM of {side} pixels was not trained to name boxes; cogvlm-grounding-generalist was"
    return Habits(
        dialects=("thousandths",),
        question="Where is {phrase}? answer in [[x0,y0,x1,y1]] format.",
        region_question="What is in the region {box}?",
        untrained=untrained,
    )


FAMILY = Family(
    name="cogvlm",
    title="CogVLM",
    hub_ids=(
        "THUDM/cogvlm-chat-hf",
        "THUDM/cogvlm-base-224-hf",
        "THUDM/cogvlm-base-490-hf",
        "THUDM/cogvlm-grounding-generalist-hf",
        "THUDM/cogvlm-grounding-base-hf",
    ),
    published_model_types=(),
    published_architectures=("CogVLMForCausalLM",),
    sat_model_classes=("CogVLMModel",),
    from_sat=_from_sat,
    config_from_sat=_config_from_sat,
    to_sat=_to_sat,
    model_types=("cogvlm",),
    tensor_marks=("model.vision.linear_proj.", "model.vision.boi", "model.vision.patch_embedding."),
    config_classes=_config_classes,
    model_class=_model_class,
    auto_models=_auto_models,
    processor_class=_processor_class,
    key_table=_key_table,
    config_from_published=_config_from_published,
    config_to_published=_config_to_published,
    describe=_describe,
    boxes=_boxes,
)
