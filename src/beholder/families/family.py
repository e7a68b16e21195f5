"""What a model family is to the rest of the house: its names, and how to reach its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

    from beholder.checkpoints.findings import Finding
    from beholder.checkpoints.keys import KeyTable
    from beholder.checkpoints.reader import Contents
    from beholder.checkpoints.writer import Conversion
    from beholder.grounding.habits import Habits

# The Auto classes that open a whole model, head and all.
WHOLE = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


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
    # `architectures` in published files that have no `model_type`
    published_architectures: tuple[str, ...] = ()
    # `model_class` in the model_config.json of SAT checkpoints; (source, target, template=, allow_loss=) from
    # such a folder to a published one, and (source, target, ranks=, allow_loss=) to one from any other.
    sat_model_classes: tuple[str, ...] = ()
    from_sat: Callable[..., Conversion] | None = None
    config_from_sat: Callable[[Mapping[str, Any]], Any] | None = None
    to_sat: Callable[..., Conversion] | None = None
    # For families that share a `model_type`: whether a checkpoint is this family's, from its configuration,
    # tensor names and folder (None where only the first two are known).
    recognises: Callable[[dict[str, Any], Iterable[str], Path | None], bool] | None = None
    # Whether a `config.json` is as its authors write it, where `model_type` does not tell.
    looks_published: Callable[[dict[str, Any]], bool] | None = None
    # The layout of a checkpoint that is not the published one, by our configuration and the tensors' names.
    own_names: Callable[[Any, Iterable[str]], tuple[str, Any]] | None = None
    # Layouts that `convert` writes besides "published" and "ours", and their names by our configuration.
    other_layouts: Mapping[str, Callable[[Any], KeyTable]] = field(default_factory=dict)
    # Our parameters with rows that published files do not have, and how many rows those have.
    padded: Callable[[Any], dict[str, int]] | None = None
    # What a folder holds, with the base model that it changes; and the same with a tower from elsewhere.
    read: Callable[[Path, str | Path | None], Contents] | None = None
    complete: Callable[[Contents, Any, Path, str], Contents] | None = None
    # Writes what a layout other than the published one has beside its weights: (folder, source,
    # configuration,
    # layout, base).
    other_files: Callable[[Path, Path, Any, str, str | Path | None], None] | None = None
    # Of checkpoints that are published as differences from a base model: beginnings of names that the base
    # does not have, and the tensors that may be larger than there.
    beside_base: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()
    # What `doctor` should say of a folder, with its base, besides what can be said of any family: what is
    # wrong, and what is worth knowing.
    symptoms: Callable[[Path, str | Path | None], tuple[list[Finding], list[str]]] | None = None
    # For models that are run as they are: opens (family, folder, device=, dtype=, base=); makes the engine.
    opens: Callable[..., PreTrainedModel] | None = None
    engine: Callable[..., Any] | None = None
    # How a checkpoint is asked for boxes, by its configuration and its processor.
    boxes: Callable[[Any, Any], Habits] | None = None

    def is_published(self, config: dict[str, Any]) -> bool:
        """Whether a `config.json` is one of this family as its authors write it."""
        if self.looks_published is not None:
            return self.looks_published(config)
        if kind := config.get("model_type"):
            return kind in self.published_model_types
        return any(name in self.published_architectures for name in config.get("architectures") or ())

    @property
    def config_marks(self) -> tuple[str, ...]:
        """What a `config.json` of this family may be known by."""
        return (*self.published_model_types, *self.published_architectures, *self.model_types)

    def claims(self, config: dict[str, Any], names: Iterable[str] = (), folder: Path | None = None) -> bool:
        """Whether the configuration, or names and folder where it leaves it open, say it is this family."""
        if self.recognises is not None:
            return self.recognises(config, names, folder)
        return self.is_published(config) or config.get("model_type") in self.model_types

    def has_tensors(self, names: Iterable[str]) -> bool:
        """Whether some tensor can only be this family's."""
        return any(name.startswith(self.tensor_marks) for name in names)
