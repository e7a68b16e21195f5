"""Figures of any kind with 95 % intervals by bootstrap: groups of rows are drawn again, with repetition.

A figure is a function of sums over groups (right answers, rows, matched words ...), so a thousand draws are
one matrix product. Draws are seeded: the same scores always give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.evaluation.intervals import Interval, wilson

Array = NDArray[np.float64]
Formula = Callable[[Array], Array]  # sums (..., k) -> figures (...)

DRAWS = 1000
SEED = 20231005
AT_ONCE = 2_000_000  # numbers in memory at once


def figure(totals: Sequence[Sequence[float]], formula: Formula, samples: int) -> Interval:
    """The figure of all groups and its percentile interval; `totals` has one row of sums for each group."""
    if not totals:
        raise ValueError("a figure needs at least one group")
    table = np.asarray(totals, dtype=np.float64)
    value = float(formula(table.sum(0)))
    drawn = formula(draw_sums(table))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high), samples)


def draw_sums(table: Array) -> Array:
    """Sums (DRAWS, k) over groups drawn with repetition."""
    groups = len(table)
    random = np.random.default_rng(SEED)
    at_once = max(1, AT_ONCE // groups)
    parts: list[Array] = []
    for start in range(0, DRAWS, at_once):
        draws = min(at_once, DRAWS - start)
        chosen = random.integers(0, groups, (draws, groups))
        counts = np.stack([np.bincount(row, minlength=groups) for row in chosen])
        parts.append(counts @ table)
    return np.concatenate(parts)


def ratio(above: Array, below: Array) -> Array:
    """Quotients, 0 where nothing stands below."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def mean(values: Iterable[float], groups: Iterable[Hashable] | None = None) -> Interval:
    """The mean of values; `groups` names what belongs together (questions about one picture).

    Where all belong to one group, nothing can be drawn among groups, so the values are drawn one by one.
    Where all values are 0, or all 1, all draws are alike, and the interval is Wilson's for as many outcomes
    of right or wrong as there are groups: one without any width would claim what nobody knows.
    """
    kept = [float(value) for value in values]
    names: Sequence[Hashable] = range(len(kept)) if groups is None else list(groups)
    if len(set(names)) == 1 and len(names) == len(kept):
        names = range(len(kept))
    sums: dict[Hashable, list[float]] = {}
    for value, group in zip(kept, names, strict=True):
        total = sums.setdefault(group, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    if set(kept) in ({0.0}, {1.0}):
        return Interval(kept[0], *wilson(kept[0] * len(sums), len(sums)), len(kept))
    return figure(list(sums.values()), lambda s: ratio(s[..., 0], s[..., 1]), len(kept))


def resample(groups: Sequence[Any], formula: Callable[[Sequence[Any]], float], draws: int = 200) -> Interval:
    """The same for a figure that is no function of sums; slower, so with fewer draws."""
    random = np.random.default_rng(SEED)
    drawn = [
        formula([groups[index] for index in random.integers(0, len(groups), len(groups))])
        for _ in range(draws)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(formula(groups), float(low), float(high), len(groups))
