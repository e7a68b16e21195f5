"""Opens a checkpoint as a model if the two fit: every parameter filled once, every tensor accounted for.

The check needs headers alone, so a checkpoint that does not fit is refused before a weight is read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from beholder.checkpoints.reader import DTYPE_CODES, Contents, read_config, read_contents
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


class ModelFamily(Protocol):
    """What opening a checkpoint needs to know of its family; `families.family.Family` says more of each."""

    @property
    def title(self) -> str:
        """Its name for people."""
        ...

    @property
    def published_model_types(self) -> tuple[str, ...]:
        """`model_type` in the config.json files of its authors."""
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


@dataclass(frozen=True)
class Plan:
    """How a folder becomes a model: its layout, our configuration, its names, and what the model wants."""

    layout: str  # "published" or "ours"
    config: PreTrainedConfig
    names: Names
    wanted: dict[str, Shape]
    tied: frozenset[str]
    from_base: tuple[str, ...]  # prefixes of parts that the model takes from elsewhere if they are left out


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


def plan(folder: Path, family: ModelFamily) -> Plan:
    """What the folder's configuration asks for; the model is built without memory to know its parameters."""
    import torch

    stored = read_config(folder)
    model_class = family.model_class()
    if stored.get("model_type") in family.published_model_types:
        layout, config = "published", family.config_from_published(stored, folder)
        names: Names = family.key_table(config)
    else:
        layout, names = "ours", SameNames()
        config = model_class.config_class.from_dict(stored)
    with torch.device("meta"):
        model = model_class(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = frozenset[str](model.all_tied_weights_keys)
    return Plan(layout, config, names, wanted, tied, getattr(model_class, "parts_from_base", ()))


def account(contents: Contents, plan: Plan) -> Account:
    """Compare headers with what the model wants, tensor by tensor."""
    filled: dict[str, str] = {}
    unknown: list[str] = []
    dropped: list[str] = []
    twice: list[str] = []
    for stored in contents.tensors:
        try:
            ours = plan.names.ours(stored)
        except KeyError:  # no row of the table knows it
            unknown.append(stored)
            continue
        if ours is None:
            dropped.append(stored)
        elif ours not in plan.wanted:
            unknown.append(stored)
        elif ours in filled:
            twice.append(stored)
        else:
            filled[ours] = stored
    lacking = {name for name in plan.wanted if name not in filled and name not in plan.tied}
    elsewhere = _left_out(lacking, plan)
    mismatched = [
        (stored, contents.tensors[stored].shape, plan.wanted[ours])
        for ours, stored in filled.items()
        if contents.tensors[stored].shape != plan.wanted[ours]
    ]
    return Account(
        missing=tuple(sorted(map(plan.names.theirs, lacking - elsewhere))),
        unknown=tuple(sorted(unknown)),
        mismatched=tuple(mismatched),
        twice=tuple(twice),
        dropped=tuple(sorted(dropped)),
        elsewhere=tuple(sorted(map(plan.names.theirs, elsewhere))),
    )


def _left_out(lacking: set[str], plan: Plan) -> set[str]:
    """Parameters of parts that the checkpoint leaves out as a whole, as the model allows."""
    parts = [{name for name in plan.wanted if name.startswith(prefix)} for prefix in plan.from_base]
    return {name for part in parts if part <= lacking for name in part}


def check(folder: Path, family: ModelFamily) -> tuple[Plan, Contents]:
    """Raise a `CheckpointError` unless the folder's tensors fill the family's model exactly."""
    wanted = plan(folder, family)
    contents = read_contents(folder)
    found = account(contents, wanted)
    if not found.holds:
        raise CheckpointError(
            f"{folder} does not fit {family.title}: of {len(wanted.wanted)} tensors "
            + ", ".join(found.problems())
        )
    if found.dropped:
        log.info("%d stored tensors are not used: %s", len(found.dropped), ", ".join(found.dropped[:SHOWN]))
    return wanted, contents


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
) -> PreTrainedModel:
    """The folder's model, ready to run; weights stream into a model that was built without memory."""
    wanted, contents = check(folder, family)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place, stored_dtype(contents))
    log.info("layout: %s, %s", wanted.layout, family.title)
    # Straight to the device where accelerate is there to do it; over the CPU's memory where it is not.
    direct: dict[str, Any] = {"device_map": {"": place}} if place.type != "cpu" and _has_accelerate() else {}
    with _quiet_if_small(contents):
        model, info = family.model_class().from_pretrained(
            folder, dtype=kind, output_loading_info=True, **direct
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
