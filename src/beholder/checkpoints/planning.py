"""What a folder's configuration asks for: the model's parameters, and under which names files hold them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from beholder.checkpoints.narrow import NarrowNames, NarrowPart, make_narrow, stored_choice
from beholder.checkpoints.reader import read_config, tensor_names
from beholder.core.errors import BeholderError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shape = tuple[int, ...]
# What configurations and models raise where a value cannot be.
WRONG_VALUES = (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError)


class Names(Protocol):
    """A key table: stored names to parameter names and back."""

    def ours(self, theirs: str) -> str | None:
        """The parameter that a stored tensor fills, None if it is dropped; KeyError if it is unknown."""
        ...

    def theirs(self, ours: str) -> str:
        """The stored name of a parameter."""
        ...

    def parts(self, ours: str) -> tuple[str, ...]:
        """The parameters that a name of ours stands for: one, except where a stored tensor is split."""
        ...


class ModelFamily(Protocol):
    """What opening a checkpoint needs to know of its family; `families.family.Family` says more of each."""

    @property
    def title(self) -> str:
        """Its name for people."""
        ...

    def is_published(self, config: dict[str, Any]) -> bool:
        """Whether a config.json is as its authors write it."""
        ...

    @property
    def key_table(self) -> Callable[[Any], Names]:
        """From our configuration to the published names."""
        ...

    @property
    def model_class(self) -> Callable[[], Any]:
        """The class of its models, a `type[PreTrainedModel]`."""
        ...

    @property
    def config_from_published(self) -> Callable[[dict[str, Any], Path], PreTrainedConfig]:
        """From a published config.json and its folder to our configuration."""
        ...


class SameNames:
    """The key table of our own layout: tensors are stored under the names of the parameters."""

    def ours(self, theirs: str) -> str:
        """The same."""
        return theirs

    def theirs(self, ours: str) -> str:
        """The same."""
        return ours

    def parts(self, ours: str) -> tuple[str, ...]:
        """The name alone: nothing is split."""
        return (ours,)


@dataclass(frozen=True)
class Plan:
    """How a folder becomes a model: its layout, our configuration, its names, and what the model wants."""

    layout: str  # "published" or "ours"
    config: PreTrainedConfig
    names: Names
    wanted: dict[str, Shape]
    tied: frozenset[str]
    from_base: tuple[str, ...]  # prefixes of parts that the model takes from elsewhere if they are left out
    padded: Mapping[str, int] = field(default_factory=dict[str, int])  # parameter -> how many rows are stored
    narrow: NarrowPart | None = None  # of which linears codes and scales are stored

    def stored_shapes(self, parameter: str) -> tuple[Shape, ...]:
        """The shapes a parameter may be stored in: its own, and that without the rows that fill it up."""
        own = self.wanted[parameter]
        rows = self.padded.get(parameter)
        return (own,) if rows is None else (own, (rows, *own[1:]))


def plan(
    folder: Path, family: ModelFamily, *, config: PreTrainedConfig | None = None, model_class: Any = None
) -> Plan:
    """What the folder's configuration asks for; the model is built without memory to know its parameters.

    `config` replaces the folder's, and `model_class` the family's: it may be the model without its head.
    """
    import torch
    from transformers.initialization import no_init_weights

    stored = read_config(folder)
    whole_class = family.model_class()
    model_class = model_class or whole_class
    is_published = family.is_published(stored)
    with _config_errors(folder):
        if config is None and is_published:
            config = family.config_from_published(stored, folder)
        config = config or cast("PreTrainedConfig", whole_class.config_class.from_dict(stored))
        with torch.device("meta"), no_init_weights():
            model = model_class(config)
            narrow = None if (choice := stored_choice(config)) is None else make_narrow(model, choice)
    if is_published:
        layout, names = "published", family.key_table(config)
    else:
        layout, names = _own_names(family, config, folder)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = frozenset[str](model.all_tied_weights_keys)
    padded: dict[str, int] = (getattr(family, "padded", None) or _nothing)(config)
    if model_class is not whole_class:
        prefix = f"{model_class.base_model_prefix}."
        names = WithoutHead(names, prefix)
        padded = {name.removeprefix(prefix): rows for name, rows in padded.items() if name.startswith(prefix)}
    if narrow is not None:
        names = NarrowNames(names)
        padded = {name: rows for name, rows in padded.items() if name in wanted}
    parts = getattr(model_class, "parts_from_base", ())
    return Plan(layout, config, names, wanted, tied, parts, padded, narrow)


@contextmanager
def _config_errors(folder: Path) -> Generator[None]:
    """A value of the wrong type or sign is found in many places, by many libraries; it is one mistake."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except BeholderError:
        raise
    except (*WRONG_VALUES, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"no model can be built from {folder / 'config.json'}: {reason}") from error


def _nothing(_: Any) -> dict[str, int]:
    return {}


def _own_names(family: ModelFamily, config: Any, folder: Path) -> tuple[str, Names]:
    """The layout of a folder that is not as its authors published it, by its tensors."""
    if (own_names := getattr(family, "own_names", None)) is None:
        return "ours", SameNames()
    return own_names(config, tensor_names(folder))


class WithoutHead:
    """The names of a model that is a whole one's body: what does not belong to the body is dropped."""

    def __init__(self, names: Names, prefix: str) -> None:
        self._names = names
        self._prefix = prefix

    def ours(self, theirs: str) -> str | None:
        """The name within the body; None of a tensor that the body does not have."""
        ours = self._names.ours(theirs)
        return ours.removeprefix(self._prefix) if ours and ours.startswith(self._prefix) else None

    def theirs(self, ours: str) -> str:
        """The stored name of a parameter of the body."""
        return self._names.theirs(self._prefix + ours)

    def parts(self, ours: str) -> tuple[str, ...]:
        """The parameters that a name stands for."""
        parts = self._names.parts(self._prefix + ours)
        return tuple(part.removeprefix(self._prefix) for part in parts)
