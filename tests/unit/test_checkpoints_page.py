"""docs/checkpoints.md is made from the code's tables and from a record of round trips that hold."""

from __future__ import annotations

import json
import re

import pytest
from docs import checkpoints_record as made

RECORD = json.loads(made.RECORD.read_text("utf-8"))


def test_the_page_is_current():
    assert made.page(RECORD) == made.PAGE.read_text("utf-8"), "run docs/checkpoints_record.py"


def test_every_way_was_measured_and_lost_nothing():
    measured = [(row["golden"], tuple(row["way"]), row["test"]) for row in RECORD["trips"]]
    assert measured == list(made.TRIPS), "run docs/checkpoints_record.py --measure"
    for row in RECORD["trips"]:
        assert row["checksums"] == 1
        assert row["files"].startswith(("byte for byte", "every tensor bit for bit"))


@pytest.mark.parametrize("test", sorted({test for *_, test in made.TRIPS}))
def test_the_tests_that_the_page_names_are_there(test):
    file, name = test.split("::")
    assert re.search(rf"^def {name}\(", (made.ROOT / file).read_text("utf-8"), re.MULTILINE)


def test_a_loss_would_be_seen():
    broken = {**RECORD, "trips": [{**RECORD["trips"][0], "checksums": 2}]}
    assert "**2 different ones**" in made.page(broken)
