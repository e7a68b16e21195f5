"""95 % intervals for the figures of a score card: proportions, means, and the difference of two proportions.

Questions about one scene are not independent of each other: a scene that is hard to see spoils all of them.
So the functions here take their outcomes grouped (one list for each scene) and widen the interval by what the
groups share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


class Interval(NamedTuple):
    """A figure, the ends of its 95 % interval, and how many samples it stands on."""

    value: float
    low: float
    high: float
    samples: int


def wilson(hits: float, samples: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion; `samples` may be an effective, fractional count."""
    if samples <= 0 or not 0 <= hits <= samples:
        raise ValueError(f"{hits} hits in {samples} samples is not a proportion")
    share = hits / samples
    spread = Z95 * math.sqrt(share * (1 - share) / samples + Z95**2 / (4 * samples**2))
    middle = share + Z95**2 / (2 * samples)
    scale = 1 + Z95**2 / samples
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def proportion(groups: Sequence[Sequence[bool]]) -> Interval:
    """The share of true outcomes, with Wilson's interval on as many samples as the groups are worth.

    Korn and Graubard's recipe: the count of samples is divided by the design effect (the variance that the
    groups cause over the variance of independent samples), never raised. Where all outcomes agree no variance
    can be seen, and the count of groups is used.
    """
    filled = [group for group in groups if group]
    samples = sum(map(len, filled))
    hits = sum(map(sum, filled))
    share = hits / samples
    worth = float(len(filled))
    if 0 < hits < samples and len(filled) > 1:
        effect = _group_variance([(sum(g), len(g)) for g in filled], share) / (share * (1 - share) / samples)
        worth = samples / max(effect, 1.0)
    low, high = wilson(share * worth, worth)
    return Interval(share, low, high, samples)


def mean(groups: Sequence[Sequence[float]]) -> Interval:
    """The mean of values between 0 and 1, with a normal interval from the variance between groups.

    Where no group differs from another no variance can be seen; then the interval is Wilson's of as many
    proportions as there are groups, which no values between 0 and 1 can need wider.
    """
    filled = [group for group in groups if group]
    samples = sum(map(len, filled))
    value = sum(map(sum, filled)) / samples
    if len(filled) == 1:
        return Interval(value, 0.0, 1.0, samples)
    reach = Z95 * math.sqrt(_group_variance([(sum(g), len(g)) for g in filled], value))
    if reach < 1e-9:  # nothing but rounding
        return Interval(value, *wilson(value * len(filled), len(filled)), samples)
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach), samples)


def difference(first: Interval, second: Interval) -> Interval:
    """`first` minus `second` with Newcombe's interval: the two Wilson intervals, joined by squares."""
    gap = first.value - second.value
    low = gap - math.hypot(first.value - first.low, second.high - second.value)
    high = gap + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(gap, low, high, first.samples + second.samples)


def _group_variance(groups: Sequence[tuple[float, int]], value: float) -> float:
    """Variance of a ratio (sum of totals over sum of sizes) when whole groups are drawn (linearised)."""
    samples = sum(size for _, size in groups)
    squares = sum((total - value * size) ** 2 for total, size in groups)
    return squares * len(groups) / (len(groups) - 1) / samples**2
