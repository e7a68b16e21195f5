"""Two runs beside each other, row by row; or one beside what the authors published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beholder.core.errors import InputError
from beholder.core.records import RunRecord
from beholder.evaluation.answers import read_whole_lines
from beholder.evaluation.bootstrap import DRAWS, SEED
from beholder.evaluation.cards import factor, read_figures
from beholder.evaluation.intervals import Interval
from beholder.evaluation.tasks import TASKS, find_task


@dataclass(frozen=True)
class Comparison:
    """What two runs of the same rows differ in; `p_value` is two-sided, `lost` and `won` are ids."""

    rows: int
    first: float
    second: float
    difference: Interval
    p_value: float
    test: str
    lost: tuple[str, ...]
    won: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        low, high = self.difference.low, self.difference.high
        return {
            "rows": self.rows, "first": self.first, "second": self.second,
            "difference": {"value": self.difference.value, "low": low, "high": high},
            "p_value": self.p_value, "test": self.test, "lost": list(self.lost), "won": list(self.won),
        }  # fmt: skip


def credit(scores: Mapping[str, Any]) -> float | None:
    """What one row is worth, between 0 and 1; none where only all rows together have a score."""
    value = scores.get("value", scores.get("right"))
    return None if value is None else float(value)


def read_credits(path: Path) -> dict[str, float]:
    """Worth of each row of a run: its folder, or the answers.jsonl in it."""
    file = path / "answers.jsonl" if path.is_dir() else path
    if not file.exists():
        raise InputError(f"there is no {file}; --compare takes folders that `beholder eval` wrote")
    found = {line["id"]: credit(line.get("scores", {})) for line in read_whole_lines(file)}
    credits = {name: value for name, value in found.items() if value is not None}
    if not credits:
        raise InputError(f"no row of {file} has a score of its own, so there is nothing to compare")
    return credits


def compare(first: Path, second: Path) -> Comparison:
    """Paired test of two runs: McNemar's (exact) where rows are right or wrong, else by bootstrap."""
    one, other = read_credits(first), read_credits(second)
    _must_be_alike(first, second)
    if one.keys() != other.keys():
        alone = sorted(one.keys() ^ other.keys())
        raise InputError(
            f"{first} and {second} hold different rows: {len(alone)} are in one only, such as {alone[0]!r}"
        )
    names = list(one)
    before, after = np.array([one[name] for name in names]), np.array([other[name] for name in names])
    change = after - before
    lost = tuple(name for name, moved in zip(names, change, strict=True) if moved < 0)
    won = tuple(name for name, moved in zip(names, change, strict=True) if moved > 0)
    drawn = _draw_means(change)
    low, high = np.percentile(drawn, [2.5, 97.5])
    is_binary = set(np.concatenate([before, after]).tolist()) <= {0.0, 1.0}
    p_value = mcnemar(len(lost), len(won)) if is_binary else _bootstrap_p(change)
    return Comparison(
        rows=len(names),
        first=float(before.mean()),
        second=float(after.mean()),
        difference=Interval(float(change.mean()), float(low), float(high), len(names)),
        p_value=p_value,
        test="McNemar, exact" if is_binary else "paired bootstrap",
        lost=lost,
        won=won,
    )


def _must_be_alike(first: Path, second: Path) -> None:
    """Two scores compare only if they follow the same rules about the same questions."""
    cards = [(path if path.is_dir() else path.parent) / "score.json" for path in (first, second)]
    if not all(card.exists() for card in cards):
        return
    one, other = (RunRecord.read(card) for card in cards)
    if one.measure != other.measure:
        raise InputError(
            f"{first} is scored by {one.measure} and {second} by {other.measure}, so they do not compare; "
            "score the older answers again with --answers"
        )
    if one.settings.get("data") != other.settings.get("data"):
        raise InputError(f"{first} and {second} were asked other questions, so they do not compare")


def mcnemar(lost: int, won: int) -> float:
    """Chance of a split at least as uneven as this one if winning and losing a row were equally likely."""
    total, ways, tail = lost + won, 1, 1
    for count in range(min(lost, won)):
        ways = ways * (total - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def _draw_means(values: Any) -> Any:
    random = np.random.default_rng(SEED)
    return np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)])


def _bootstrap_p(change: Any) -> float:
    """How often a mean drawn around zero is at least as far from zero as the one that was seen."""
    if not change.any():
        return 1.0
    drawn = _draw_means(change - change.mean())
    return float((np.sum(np.abs(drawn) >= abs(change.mean())) + 1) / (DRAWS + 1))


def comparison_text(told: Comparison, first: str, second: str) -> str:
    """A few lines for people."""
    gap = told.difference
    return "\n".join(
        (
            f"{told.rows} rows: {first} {100 * told.first:.2f}, {second} {100 * told.second:.2f}",
            f"difference {100 * gap.value:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}], "
            f"p = {told.p_value:.3g} ({told.test})",
            f"lost {len(told.lost)}: {_some(told.lost)}",
            f"won {len(told.won)}: {_some(told.won)}",
        )
    )


def _some(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"


@dataclass(frozen=True)
class Published:
    """A figure of ours beside a published one."""

    task: str
    figure: str
    model: str
    ours: float
    theirs: float
    tolerance: float
    source: str

    @property
    def is_within(self) -> bool:
        """Whether they are as near as a faithful run should be."""
        return abs(self.ours - self.theirs) <= self.tolerance + 1e-9

    def __str__(self) -> str:
        verdict = "within" if self.is_within else "OUT OF"
        return (
            f"{self.task} {self.figure}: {self.ours:.1f}, published for {self.model} {self.theirs:.1f} "
            f"({self.source}): {verdict} tolerance {self.tolerance:g}"
        )


def compare_published(record: RunRecord, model: str | None = None) -> list[Published]:
    """What the documents give for the model of a record, or for the one that is named."""
    name = record.measure.rsplit(" v", 1)[0]
    if name not in TASKS:
        return []
    task, figures = find_task(name), read_figures(record.values)
    wanted = (model or record.subject).rstrip("/").rsplit("/", 1)[-1].casefold()
    known = {one for column in task.published for one in column.figures}
    if model and wanted not in {one.casefold() for one in known}:
        raise InputError(
            f"nothing is published for {model!r} on {name}; known: {', '.join(sorted(known)) or 'none'}"
        )
    return [
        Published(name, figure, model_name, factor(record, figure) * figures[figure].value, value,
                  column.tolerance, column.source)
        for column in task.published
        for model_name, value in column.figures.items()
        if model_name.casefold() == wanted and (figure := column.figure or task.headline) in figures
    ]  # fmt: skip
