"""This copy of the package against the numbers that the original programs left, stage by stage.

The goldens are tiny checkpoints with the inputs and outputs that the originals recorded for them. A `Stage`
is what was compared between two points of the way from pixels to tokens, with the largest difference found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# Name of the goldens -> modules with `compare(folder, name)`, and the folder within the goldens.
LLAVA = ("llava_inputs", "llava", "llava_changed")
RUNNERS = {"360vl": ("qh360vl",), "llava": LLAVA, "internvl": LLAVA, "cogvlm": ("cogvlm",)}
FOLDERS = {"360vl": "360vl", "llava": "llava", "internvl": "llava", "cogvlm": "cogvlm"}
EXACT = 0.0
PIXELS = 1e-6
NUMBERS = 1e-4


@dataclass(frozen=True)
class Found:
    """One comparison: what was compared, and by how much the two differ at most."""

    stage: str
    case: str
    difference: float
    tolerance: float


@dataclass(frozen=True)
class Stage:
    """All comparisons of one stage of one family."""

    family: str
    stage: str
    cases: int
    difference: float
    tolerance: float
    worst: str  # the case with the largest difference

    @property
    def holds(self) -> bool:
        """Whether every case is within the tolerance; a difference that is no number is not."""
        return self.difference <= self.tolerance


Compare = Callable[[Path, str], Iterator[Found]]


def families(golden: Path) -> list[str]:
    """The names whose goldens are there."""
    return [name for name, folder in FOLDERS.items() if (golden / folder).is_dir()]


def run(golden: Path, names: Iterable[str] = ()) -> list[Stage]:
    """Compare the named families, or all whose goldens are in the folder."""
    wanted = list(names)
    if unknown := sorted(set(wanted) - RUNNERS.keys()):
        raise ConfigError(f"no goldens are known for {', '.join(unknown)}; known: {', '.join(RUNNERS)}")
    present = families(golden)
    if absent := [name for name in wanted or list(RUNNERS) if name not in present]:
        if wanted or not present:
            raise CheckpointError(f"{golden} has no goldens of {', '.join(absent)}; give their folder")
    stages: list[Stage] = []
    for name in wanted or present:
        stages += summed(name, _compared(golden / FOLDERS[name], name))
    return stages


def _compared(folder: Path, name: str) -> Iterator[Found]:
    for module in RUNNERS[name]:
        compare: Compare = import_module(f"{__name__}.{module}").compare
        yield from compare(folder, name)


def summed(name: str, found: Iterable[Found]) -> list[Stage]:
    """One line per stage, in the order in which they came."""
    by_stage: dict[str, list[Found]] = {}
    for one in found:
        by_stage.setdefault(one.stage, []).append(one)
    stages: list[Stage] = []
    for stage, all_cases in by_stage.items():
        worst = max(all_cases, key=lambda one: (one.difference != one.difference, one.difference))
        stages.append(Stage(name, stage, len(all_cases), worst.difference, worst.tolerance, worst.case))
    return stages


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference between two tensors; infinite where their shapes differ, or one is no number."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    largest = float((ours.detach().double() - theirs.double()).abs().max())
    return largest if largest == largest else float("inf")


def unequal(ours: object, theirs: object) -> float:
    """0 where two texts or lists are the same, else infinite: they have no distance."""
    return 0.0 if ours == theirs else float("inf")


def relative(ours: float, theirs: float) -> float:
    """The difference of two lengths as a share of the second; of very short ones, the difference itself."""
    return abs(ours - theirs) / max(abs(theirs), 1e-3)


def gradient_norms(model: Any, wanted: dict[str, Any], table: Any, rows: dict[str, int]) -> float:
    """The largest relative difference between recorded gradient lengths and the model's own.

    `table` names the parameters; a tensor that is several parameters is as long as all of them together.
    `rows` are those that count, where a parameter has more.
    """
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        gradient = parameter.grad[: rows[name]] if name in rows else parameter.grad
        whole = table.theirs(name)
        squares[whole] = squares.get(whole, 0.0) + float(gradient.double().norm()) ** 2
    recorded = {name: norm for name, norm in wanted.items() if isinstance(norm, (int, float))}
    if not recorded or any(name not in squares for name, norm in recorded.items() if norm):
        return float("inf")
    return max(relative(squares.get(name, 0.0) ** 0.5, norm) for name, norm in recorded.items())
