"""Any other image-text model that transformers has, run by transformers' own code with its own processor.

Not a row of the table of families: it is made for a `model_type` that no family claims and transformers
knows. Nothing here can be trained or converted; what was published is what is run.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.core.errors import ConfigError
from beholder.families.family import Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from beholder.checkpoints.findings import Finding

NAME = "other"


def other_family(config: dict[str, Any]) -> Family | None:
    """The family of a `config.json` that nobody claims; None where transformers does not know it either."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return None
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as known

    return family_of(kind, known[kind]) if kind in known else None


@cache
def family_of(model_type: str, class_name: str) -> Family:
    """The family of one `model_type`, whose model class transformers has under that name."""

    def model_class() -> type[PreTrainedModel]:
        import transformers

        return getattr(transformers, class_name[0] if isinstance(class_name, tuple) else class_name)

    def config_classes() -> tuple[type[PreTrainedConfig], ...]:
        return (cast("type[PreTrainedConfig]", model_class().config_class),)

    def key_table(config: Any) -> Any:
        raise _not_here(model_type)

    def from_published(config: dict[str, Any], folder: Path) -> PreTrainedConfig:
        raise _not_here(model_type)

    def own_names(config: Any, names: Iterable[str]) -> Any:
        raise ConfigError(
            f"the tensors of {model_type} are renamed by transformers as it opens them, so their headers "
            "alone tell nothing here; beholder.load checks that every parameter is filled"
        )

    def symptoms(folder: Path, base: str | Path | None) -> tuple[list[Finding], list[str]]:
        from beholder.families.other.loading import symptoms

        return symptoms(family_of(model_type, class_name), folder)

    return Family(
        name=NAME,
        title=model_type,
        hub_ids=(),
        published_model_types=(),
        model_types=(model_type,),
        tensor_marks=(),
        config_classes=config_classes,
        model_class=model_class,
        auto_models=dict,
        processor_class=_processor_class,
        key_table=key_table,
        config_from_published=from_published,
        config_to_published=lambda config: key_table(config),
        describe=_describe,
        own_names=own_names,
        symptoms=symptoms,
        opens=_opens,
        engine=_engine,
    )


def _not_here(model_type: str) -> ConfigError:
    return ConfigError(
        f"{model_type} is run as transformers has it, so there is one layout of it and nothing to convert; "
        "open it with transformers to save it otherwise"
    )


def _processor_class() -> type[ProcessorMixin]:
    from beholder.families.other.processing import OtherProcessor

    return OtherProcessor  # type: ignore[return-value]


def _opens(family: Family, folder: Path, **options: Any) -> PreTrainedModel:
    from beholder.families.other.loading import open_as_it_is

    return open_as_it_is(family, folder, **options)


def _engine(model: Any, **settings: Any) -> Any:
    from beholder.families.other.engine import GenerateEngine

    return GenerateEngine(model, **settings)


def _describe(config: Any) -> dict[str, Any]:
    """What every configuration of transformers says, from a `config.json` or a configuration."""
    if isinstance(config, dict):
        from transformers import AutoConfig

        told = dict(config)
        config = AutoConfig.for_model(told.pop("model_type"), **told)
    text = config.get_text_config()
    tower = getattr(config, "vision_config", None)
    told = {"vision_tower": getattr(tower, "model_type", None) or "as transformers has it"}
    layers, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    told["language_model"] = (
        f"{text.model_type} {layers} x {width}, vocabulary {getattr(text, 'vocab_size', None)}"
    )
    return told | {
        "context": getattr(text, "max_position_embeddings", None),
        "template": "the processor's own",
    }
