"""Opens a checkpoint as a model if the two fit: every parameter filled once, every tensor accounted for.

The check needs headers alone, so a checkpoint that does not fit is refused before a weight is read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from beholder.checkpoints.lora import confirm
from beholder.checkpoints.quantize import settings_for
from beholder.checkpoints.reader import DTYPE_CODES, Contents, read_config, read_contents, tensor_names
from beholder.checkpoints.splits import targets, whole_shape
from beholder.core.device import resolve_device, resolve_dtype
from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger("beholder")

Shape = tuple[int, ...]
SHOWN = 3  # how many names an error lists
LARGE_BYTES = 2**30  # from here on loading takes long enough to want a progress bar


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

    def stored_shapes(self, parameter: str) -> tuple[Shape, ...]:
        """The shapes a parameter may be stored in: its own, and that without the rows that fill it up."""
        own = self.wanted[parameter]
        rows = self.padded.get(parameter)
        return (own,) if rows is None else (own, (rows, *own[1:]))


@dataclass(frozen=True)
class Account:
    """Where stored tensors and a model's parameters do not meet. Names are those in the files."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    mismatched: tuple[tuple[str, Shape, Shape], ...]  # name, stored shape, wanted shape
    twice: tuple[str, ...]
    dropped: tuple[str, ...]  # stored, and left out on purpose
    elsewhere: tuple[str, ...]  # not stored, and taken from another checkpoint on purpose

    @property
    def holds(self) -> bool:
        """Whether the checkpoint fits the model."""
        return not (self.missing or self.unknown or self.mismatched or self.twice)

    def problems(self) -> list[str]:
        """One line per kind of problem, with the count and the first names."""
        shapes = [f"{name} is {list(have)} and must be {list(want)}" for name, have, want in self.mismatched]
        kinds = (
            ("missing", self.missing),
            ("of another shape", shapes),
            ("unknown", self.unknown),
            ("stored twice", self.twice),
        )
        return [f"{len(names)} {kind}: {'; '.join(names[:SHOWN])}" for kind, names in kinds if names]


def plan(
    folder: Path, family: ModelFamily, *, config: PreTrainedConfig | None = None, model_class: Any = None
) -> Plan:
    """What the folder's configuration asks for; the model is built without memory to know its parameters.

    `config` replaces the folder's, and `model_class` the family's: it may be the model without its head.
    """
    import torch

    stored = read_config(folder)
    whole_class = family.model_class()
    model_class = model_class or whole_class
    if family.is_published(stored):
        config = config or family.config_from_published(stored, folder)
        layout, names = "published", family.key_table(config)
    else:
        config = config or cast("PreTrainedConfig", whole_class.config_class.from_dict(stored))
        layout, names = _own_names(family, config, folder)
    with torch.device("meta"):
        model = model_class(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = frozenset[str](model.all_tied_weights_keys)
    padded: dict[str, int] = (getattr(family, "padded", None) or _nothing)(config)
    if model_class is not whole_class:
        prefix = f"{model_class.base_model_prefix}."
        names = WithoutHead(names, prefix)
        padded = {name.removeprefix(prefix): rows for name, rows in padded.items() if name.startswith(prefix)}
    parts = getattr(model_class, "parts_from_base", ())
    return Plan(layout, config, names, wanted, tied, parts, padded)


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


def account(contents: Contents, plan: Plan) -> Account:
    """Compare headers with what the model wants, tensor by tensor."""
    filled: dict[str, str] = {}
    unknown: list[str] = []
    dropped: list[str] = []
    twice: list[str] = []
    for stored in contents.tensors:
        try:
            held = targets(plan.names, stored)
        except KeyError:  # no row of the table knows it
            unknown.append(stored)
            continue
        if not held:
            dropped.append(stored)
        elif not plan.wanted.keys() >= set(held):
            unknown.append(stored)
        elif filled.keys() & set(held):
            twice.append(stored)
        else:
            filled |= dict.fromkeys(held, stored)
    lacking = {name for name in plan.wanted if name not in filled and name not in plan.tied}
    elsewhere = _left_out(lacking, plan)
    shapes = {stored: _shapes(stored, plan) for stored in dict.fromkeys(filled.values())}
    mismatched = [
        (stored, contents.tensors[stored].shape, possible[-1])
        for stored, possible in shapes.items()
        if contents.tensors[stored].shape not in possible
    ]
    return Account(
        missing=tuple(sorted(set(map(plan.names.theirs, lacking - elsewhere)))),
        unknown=tuple(sorted(unknown)),
        mismatched=tuple(mismatched),
        twice=tuple(twice),
        dropped=tuple(sorted(dropped)),
        elsewhere=tuple(sorted(set(map(plan.names.theirs, elsewhere)))),
    )


def _shapes(stored: str, plan: Plan) -> tuple[Shape, ...]:
    """The shapes that a stored tensor may have; the last one is the published one."""
    held = targets(plan.names, stored)
    if len(held) == 1:
        return plan.stored_shapes(held[0])
    return (whole_shape([plan.wanted[ours] for ours in held]),)


def _left_out(lacking: set[str], plan: Plan) -> set[str]:
    """Parameters of parts that the checkpoint leaves out as a whole, as the model allows."""
    parts = [{name for name in plan.wanted if name.startswith(prefix)} for prefix in plan.from_base]
    return {name for part in parts if part <= lacking for name in part}


def check(
    folder: Path,
    family: ModelFamily,
    *,
    base: str | Path | None = None,
    config: PreTrainedConfig | None = None,
    model_class: Any = None,
) -> tuple[Plan, Contents]:
    """Raise a `CheckpointError` unless the folder's tensors fill the family's model exactly.

    Where the family says so, what the folder leaves out is read from its `base` and its tower.
    """
    wanted = plan(folder, family, config=config, model_class=model_class)
    contents = contents_of(folder, family, base)
    if (complete := getattr(family, "complete", None)) is not None:
        contents = complete(contents, wanted.config, folder, wanted.layout)
    found = account(contents, wanted)
    if not found.holds:
        raise CheckpointError(
            f"{folder} does not fit {family.title}: of {len(wanted.wanted)} tensors "
            + ", ".join(found.problems())
        )
    if contents.adapter is not None:
        confirm(contents.adapter, {name: tensor.shape for name, tensor in contents.tensors.items()})
    if found.dropped:
        log.info("%d stored tensors are not used: %s", len(found.dropped), ", ".join(found.dropped[:SHOWN]))
    return wanted, contents


def contents_of(folder: Path, family: ModelFamily, base: str | Path | None = None) -> Contents:
    """What a folder holds, together with the model that it changes where it is an adapter or a projector."""
    if (read := getattr(family, "read", None)) is not None:
        return read(folder, base)
    return read_contents(folder)


def stored_dtype(contents: Contents) -> torch.dtype:
    """The number format that most of the numbers are stored in."""
    import torch

    sizes: Counter[str] = Counter()
    for tensor in contents.tensors.values():
        sizes[tensor.dtype] += tensor.size
    code = max(sizes, key=lambda name: sizes[name])
    return getattr(torch, DTYPE_CODES.get(code, "float32"))


def open_model(
    folder: Path,
    family: ModelFamily,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base: str | Path | None = None,
    quantize: str | None = None,
) -> PreTrainedModel:
    """The folder's model, ready to run; weights stream into a model that was built without memory.

    `base` is the folder or hub id of the model that an adapter or a projector belongs to. `quantize` is
    "8bit" or "4bit", see `quantize.py`.
    """
    if (opens := getattr(family, "opens", None)) is not None:
        return opens(family, folder, device=device, dtype=dtype, base=base, quantize=quantize)
    wanted, contents = check(folder, family, base=base)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place, stored_dtype(contents))
    log.info("layout: %s, %s", wanted.layout, family.title)
    # Straight to the device where accelerate is there to do it; over the CPU's memory where it is not.
    direct: dict[str, Any] = {"device_map": {"": place}} if place.type != "cpu" and _has_accelerate() else {}
    if quantize is not None:
        direct["quantization_config"] = settings_for(quantize, family.model_class(), wanted.config, place)
    origin: dict[str, Any] = {} if base is None else {"base": base}
    with _quiet_if_small(contents):
        model, info = family.model_class().from_pretrained(
            folder, dtype=kind, output_loading_info=True, **direct, **origin
        )
    _confirm(folder, info)
    return model if direct else model.to(place)


def _confirm(folder: Path, info: Mapping[str, Any]) -> None:
    """The check promised that everything fits; transformers must have seen the same."""
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if found := list(info.get(kind) or ()):
            raise CheckpointError(f"{folder} was not loaded completely: {len(found)} {kind}: {found[:SHOWN]}")


def _has_accelerate() -> bool:
    from transformers.utils.import_utils import is_accelerate_available

    return is_accelerate_available()


@contextmanager
def _quiet_if_small(contents: Contents) -> Generator[None]:
    """No progress bar for what is done in a moment."""
    from transformers.utils import logging as theirs

    total = sum((contents.folder / name).stat().st_size for name in contents.files)
    if total >= LARGE_BYTES or not theirs.is_progress_bar_enabled():
        yield
        return
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.enable_progress_bar()
