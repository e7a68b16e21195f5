"""Labels follow the trained tokens."""

from __future__ import annotations

from beholder.processing.labels import IGNORED, labels_from
from beholder.processing.tokens import Encoded


def test_labels_are_the_trained_ids():
    assert labels_from(Encoded([7, 8, 9], [False, True, True])) == [IGNORED, 8, 9]


def test_ignored_is_what_torch_ignores():
    assert IGNORED == -100
