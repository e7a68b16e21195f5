"""Intervals against published values and against what they must do."""

from __future__ import annotations

import pytest

from beholder.evaluation import bootstrap
from beholder.evaluation.intervals import Interval, difference, mean, proportion, wilson


@pytest.mark.parametrize(
    ("hits", "samples", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, "Two-sided confidence intervals", table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(hits, samples, low, high):
    assert wilson(hits, samples) == pytest.approx((low, high), abs=5e-5)


def test_wilson_refuses_what_is_no_proportion():
    with pytest.raises(ValueError, match="3 hits in 2 samples"):
        wilson(3, 2)


def test_independent_samples_give_plain_wilson():
    found = proportion([[True]] * 80 + [[False]] * 20)
    assert found[0] == 0.8
    assert found[1:3] == pytest.approx(wilson(80, 100), abs=2e-3)
    assert found.samples == 100


def test_answers_that_always_agree_count_once():
    """Two hundred answers in a hundred pairs that agree tell no more than a hundred."""
    pairs = proportion([[True, True]] * 80 + [[False, False]] * 20)
    single = proportion([[True]] * 80 + [[False]] * 20)
    assert pairs.samples == 200
    assert pairs[1:3] == pytest.approx(single[1:3], abs=1e-9)


def test_no_interval_is_narrower_than_independent_samples_allow():
    """Pairs that always differ have no variance between them; the interval does not collapse for that."""
    found = proportion([[True, False]] * 50)
    assert found[1:3] == pytest.approx(wilson(50, 100))


def test_without_an_error_the_groups_are_counted():
    assert proportion([[True, True, True]] * 30)[1:3] == pytest.approx(wilson(30, 30))


def test_mean_of_spread_values():
    found = mean([[0.0], [1.0]] * 50)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - 1.96 * 0.0503, 0.5 + 1.96 * 0.0503), abs=1e-3)


def test_mean_of_one_group_tells_nothing():
    assert mean([[0.3, 0.5]]) == Interval(0.4, 0.0, 1.0, 2)


def test_mean_of_groups_that_are_alike_has_the_width_of_their_count():
    assert mean([[0.1]] * 30) == Interval(pytest.approx(0.1), *map(pytest.approx, wilson(3, 30)), 30)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bootstrap_of_what_is_never_or_always_right_counts_groups(value):
    found = bootstrap.mean([value] * 60, [name for name in range(30) for _ in "ab"])
    assert found == Interval(value, *wilson(30 * value, 30), 60)


def test_difference_as_published():
    """Newcombe 1998, "Interval estimation for the difference", table II, example (a), method 10."""
    first, second = (Interval(k / n, *wilson(k, n), n) for k, n in ((56, 70), (48, 80)))
    assert difference(first, second)[:3] == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
