"""What a model family is to the rest of the house: its names, and how to reach its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from beholder.checkpoints.keys import KeyTable


@dataclass(frozen=True, kw_only=True)
class Family:
    """One system of models. Everything heavy is behind a function that imports it when called."""

    name: str
    title: str
    hub_ids: tuple[str, ...]  # what its authors published
    published_model_types: tuple[str, ...]  # `model_type` in their config.json
    model_types: tuple[str, ...]  # `model_type` in ours
    tensor_marks: tuple[str, ...]  # beginnings of tensor names that no other family has
    config_classes: Callable[[], tuple[type[PreTrainedConfig], ...]]  # the first is ours
    model_class: Callable[[], type[PreTrainedModel]]
    auto_models: Callable[[], dict[str, type[PreTrainedModel]]]  # Auto class -> what it opens
    processor_class: Callable[[], type[ProcessorMixin]]
    key_table: Callable[[Any], KeyTable]  # our configuration -> published names and ours
    config_from_published: Callable[[dict[str, Any], Path], PreTrainedConfig]
    config_to_published: Callable[[Any], dict[str, Any]]
    describe: Callable[[Any], dict[str, Any]]  # a config.json or our configuration -> what `inspect` prints

    def claims(self, config: dict[str, Any]) -> bool:
        """Whether the configuration says that it belongs to this family."""
        return config.get("model_type") in (*self.published_model_types, *self.model_types)

    def has_tensors(self, names: Iterable[str]) -> bool:
        """Whether some tensor can only be this family's."""
        return any(name.startswith(self.tensor_marks) for name in names)
