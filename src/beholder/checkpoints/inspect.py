"""What a checkpoint is and whether it is whole, told from its configuration and headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from beholder.checkpoints.accounting import account
from beholder.checkpoints.loader import contents_of
from beholder.checkpoints.lora import confirm
from beholder.checkpoints.narrow import confirm_numbers, hint, logical_size
from beholder.checkpoints.planning import ModelFamily, plan
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.shards import dtype_code
from beholder.core.errors import BeholderError


class DescribedFamily(ModelFamily, Protocol):
    """A family that can tell what a configuration means."""

    @property
    def name(self) -> str:
        """Its name in the table of families."""
        ...

    @property
    def describe(self) -> Callable[[Any], dict[str, Any]]:
        """From our configuration to what a person wants to know of it."""
        ...


@dataclass(frozen=True)
class Report:
    """What `beholder inspect` tells. `problems` is empty where the checkpoint fits its model exactly."""

    path: str
    family: str
    title: str
    layout: str
    parameters: int
    bytes: int
    dtypes: dict[str, int]  # numbers stored per format
    quantization: str  # how the language model's linears are stored; empty where they are dense
    files: tuple[str, ...]
    tensors: int
    geometry: dict[str, Any]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    mismatched: tuple[str, ...]
    dropped: tuple[str, ...]
    elsewhere: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the checkpoint would open."""
        return not self.problems


def examine(folder: Path, family: DescribedFamily, *, base: str | Path | None = None) -> Report:
    """Look at a folder of a known family; what is wrong with its weights is told and not raised.

    `base` is the model that an adapter or a projector belongs to.
    """
    wanted = plan(folder, family)
    try:
        contents = contents_of(folder, family, base)
        damage: list[str] = []
        if contents.adapter is not None:
            confirm(contents.adapter, {name: tensor.shape for name, tensor in contents.tensors.items()})
    except BeholderError as error:
        contents, damage = Contents(folder, (), {}), [str(error)]
    found = account(contents, wanted)
    problems = damage or found.problems()
    if found.mismatched:
        problems[-1] += hint(wanted, (name for name, _, _ in found.mismatched))
    elif not problems:
        try:
            confirm_numbers(contents, wanted)
        except BeholderError as error:
            problems = [str(error)]
    numbers: Counter[str] = Counter()
    for tensor in contents.tensors.values():
        numbers[tensor.dtype] += tensor.size
    return Report(
        path=str(folder),
        family=family.name,
        title=family.title,
        layout=wanted.layout,
        parameters=logical_size(contents, wanted),
        bytes=sum(tensor.bytes for tensor in contents.tensors.values()),
        dtypes=dict(numbers.most_common()),
        quantization="" if wanted.narrow is None else str(wanted.narrow.choice),
        files=contents.files,
        tensors=len(contents.tensors),
        geometry=family.describe(wanted.config),
        missing=found.missing,
        unknown=found.unknown,
        mismatched=tuple(
            f"{name}: {list(have)}, must be {list(want)}" for name, have, want in found.mismatched
        ),
        dropped=found.dropped,
        elsewhere=found.elsewhere,
        problems=tuple(problems),
    )


def examine_ranks(folder: Path, family: DescribedFamily) -> Report:
    """The same of a SAT checkpoint, which must be converted before it opens; `family` is its own."""
    from beholder.checkpoints.sat import adapted_layers, open_sat

    opened = open_sat(folder)
    from_sat = getattr(family, "config_from_sat", None)
    numbers: Counter[str] = Counter()
    length = 0
    for rank in opened.ranks:
        for tensor in rank.values():
            numbers[dtype_code(tensor.dtype)] += tensor.numel()
            length += tensor.nbytes
    first = next(iter(opened.ranks))
    adapted = len(adapted_layers(first))
    ranks = f"{len(opened.ranks)} rank{'s' if len(opened.ranks) > 1 else ''}"
    return Report(
        path=str(folder),
        family=family.name,
        title=family.title,
        layout=f"sat, {ranks}" + (f", adapters of {adapted} layers beside the weights" if adapted else ""),
        parameters=sum(numbers.values()),
        bytes=length,
        dtypes=dict(numbers.most_common()),
        quantization="",
        files=tuple(f"mp_rank_{number:02}_model_states.pt" for number in range(len(opened.ranks))),
        tensors=len(first),
        geometry=family.describe(from_sat(opened.config)) if from_sat is not None else {},
        missing=(),
        unknown=(),
        mismatched=(),
        dropped=(),
        elsewhere=(),
        problems=(f"a SAT checkpoint is not opened as it is: beholder convert {folder} NEW --to published",),
    )
