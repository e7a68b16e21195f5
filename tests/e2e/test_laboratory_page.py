"""The laboratory's page and the plot of the stages, from a run at the tiny budget."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from docs import draw_stages, laboratory_page

from beholder.core.records import RunRecord
from beholder.laboratory.budget import BUDGETS, LABORATORY_RATE
from beholder.laboratory.experiment import run_laboratory

TINY = BUDGETS["tiny"]


@pytest.mark.slow
def test_the_stages_are_run_and_drawn_and_told(tmp_path: Path) -> None:
    lab, records, pictures = tmp_path / "lab", tmp_path / "stages", tmp_path / "pictures"
    alone = run_laboratory(lab, TINY, [0], ["mlp"])
    assert set(alone[-1].values) == {"mlp"}
    found = run_laboratory(lab, TINY, [0], ["mlp", "experts"])
    assert set(found[-1].values) == {"mlp", "experts"}, "who is compared was timed together"
    assert found[-1].samples == TINY.tests
    draw_stages.run(lab, TINY, [0], records)
    home = lab / f"stages-{TINY.tune_steps}-0"
    arms = {path.stem for path in records.iterdir()}
    assert arms == {"one-0", *(f"two-{rate:g}-0" for rate in draw_stages.RATES)}
    assert not (home / f"two-{LABORATORY_RATE:g}-0").exists(), "the laboratory's own run is taken"
    last = next(record for record in found if record.settings.get("step") == TINY.tune_steps)
    same = RunRecord.read(records / f"two-{LABORATORY_RATE:g}-0.json")
    assert (same.weights, same.values["overall"]) == (last.weights, last.values["overall"])
    one, two = (json.loads((home / name / "recipe.json").read_text()) for name in ("one-0", "two-0.0001-0"))
    assert one["steps"] == TINY.tune_steps + TINY.align_rows // TINY.batch
    assert two["model"].startswith(str(home / "two-0.0001-0-align")), "the last stage goes on from the first"
    assert not one["model"].startswith(str(home)), "one stage begins at the start"

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    draw_stages.run(lab, TINY, [0], records)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}

    with pytest.raises(SystemExit, match="with 1 and 2 steps, asked for are tiny with 1 and 4"):
        draw_stages.run(lab, replace(TINY, tune_steps=4), [0], records)

    pictures.mkdir()
    draw_stages.plot(records, pictures / "stages.svg")
    of_stages = [RunRecord.read(path) for path in sorted(records.iterdir())]
    words = (laboratory_page.HERE / "laboratory.txt").read_text("utf-8")
    page = laboratory_page.page(found, of_stages, words, pictures)
    assert not re.search(r"\{\w+\}", page), "every mark of the page is filled in"
    assert len(re.findall(r"^\| two \|", page, re.MULTILINE)) == len(draw_stages.RATES)
    assert len(re.findall(r"^\| one \|", page, re.MULTILINE)) == 1
    for title in ("two-layer MLP", "visual experts"):
        assert f"| {title}" in page
    shown = set(re.findall(r"\(pictures/([\w.-]+)\)", page))
    assert shown == {path.name for path in pictures.iterdir()}


def test_without_records_the_page_says_so(tmp_path: Path) -> None:
    page = laboratory_page.page([], [], "{table}\n\n{kinds}\n\n{stages}", tmp_path)
    assert laboratory_page.NONE in page
    assert laboratory_page.NONE_OF_STAGES in page
    with pytest.raises(SystemExit, match="no records in"):
        draw_stages.plot(tmp_path, tmp_path / "stages.svg")
