"""A key table reads in both directions, and what it cannot say it refuses."""

from __future__ import annotations

import pytest

from beholder.checkpoints.keys import KeyTable

TABLE = KeyTable.of(
    [
        ("old.{n}.table", None),
        ("old.{n}.w.{part}", "new.block{n}.{part}"),
        ("head.weight", "head.weight"),
        ("old.{rest}", "new.other.{rest}"),
    ]
)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("old.12.w.q.weight", "new.block12.q.weight"),
        ("head.weight", "head.weight"),
        ("old.norm", "new.other.norm"),
        ("old.x.w.q", "new.other.x.w.q"),  # {n} is a number, so the row above does not take it
    ],
)
def test_both_directions(theirs, ours):
    assert TABLE.ours(theirs) == ours
    assert TABLE.theirs(ours) == theirs


def test_the_first_row_wins_and_none_drops():
    assert TABLE.ours("old.3.table") is None
    assert list(TABLE.dropped) == ["old.{n}.table"]


@pytest.mark.parametrize("name", ["older.norm", "head.weights", "xhead.weight", "head/weight"])
def test_only_whole_names_match(name):
    with pytest.raises(KeyError, match=name):
        TABLE.ours(name)


def test_a_parameter_without_a_row():
    with pytest.raises(KeyError, match="unheard"):
        TABLE.theirs("unheard.of")


def test_a_row_must_hold_the_same_placeholders_on_both_sides():
    with pytest.raises(ValueError, match="placeholders"):
        KeyTable.of([("a.{n}", "b.{rest}")])


def test_renamings_leave_out_what_is_dropped_or_stays():
    table = KeyTable.of([("a.{n}.b", "c{n}.b"), ("same", "same"), ("gone", None), ("x", "y")])
    assert table.renamings() == {r"^a\.(\d+)\.b$": r"c\1.b", "^x$": "y"}


def test_renamings_take_one_placeholder():
    with pytest.raises(ValueError, match="more placeholders"):
        TABLE.renamings()
