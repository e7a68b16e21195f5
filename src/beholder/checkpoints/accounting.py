"""Where stored tensors and a model's parameters meet and where they do not, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.checkpoints.planning import Plan, Shape
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.splits import targets, whole_shape

SHOWN = 3  # how many names an error lists


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
