"""`beholder data check`, `beholder data show` and a dry run, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.equality.training_cases import checkpoint, recipe, write_rows

from beholder.cli import main
from beholder.training.stages import read_recipe


@pytest.fixture
def written(tmp_path: Path, llama3_tokenizer: Any) -> Path:
    folder = checkpoint("cogvlm", tmp_path, llama3_tokenizer)
    write_rows(tmp_path)
    stage = recipe("cogvlm", folder, tmp_path / "out").model_dump(mode="json")
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(stage))
    return tmp_path / "stage.yaml"


def test_check_and_show(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(written)]) == 0
    assert "8 rows, 6 pictures" in capsys.readouterr().out
    assert (written.parent / "out" / "data-manifest.json").is_file()
    assert main(["data", "show", str(written), "row 0"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("row 0: ")
    assert "[</s>]" in told
    assert main(["data", "show", str(written), "3"]) == 0
    assert capsys.readouterr().out.startswith("row 3: ")
    assert main(["data", "show", str(written), "no such row"]) == 1
    assert "numbered from 0" in capsys.readouterr().err


def test_check_exits_with_3_where_a_row_cannot_be_trained(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((written.parent / "rows.json").read_text())
    rows[1]["image"] = "gone.png"
    (written.parent / "rows.json").write_text(json.dumps(rows))
    assert main(["data", "check", str(written), "--no-tokens"]) == 3
    assert "missing file: 1" in capsys.readouterr().out


def test_dry_run(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(written), "--dry-run", "--processes", "2"]) == 0
    told = capsys.readouterr().out
    recipe, plan = told[told.index("\nname:") : told.index("\ntrains ")], told[told.index("\ntrains ") :]
    assert yaml.safe_load(recipe) == read_recipe(str(written)).model_dump(mode="json")
    lines = plan.split("\n")
    assert "each step: 2 rows at once x 1 passes x 2 processes = 4 rows" in lines
    assert "memory of each of 2 processes" in plan
    assert "for each process on it" in plan
    assert not (written.parent / "out" / "recipe.json").exists()


def test_a_dry_run_names_what_was_chosen(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(written), "--dry-run", "learning_rate=0.5", "data.0.weight=2"]) == 0
    told = capsys.readouterr().out
    recipe, chosen = told.splitlines()[:2]
    assert recipe.endswith(f"to {written.parent / 'out'}")
    assert "learning_rate=0.5," in chosen
    assert "data.0.weight=2.0," in chosen
    assert "beta1" not in chosen


def test_of_a_packaged_recipe_what_was_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also what is changed to a default, which the recipe does not have."""
    assert main(["train", "llava-1.5/align", "--dry-run", "max_grad_norm=1.0", "seed=42"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "set: max_grad_norm=1.0"
    assert main(["train", "llava-1.5/align", "--dry-run"]) == 0
    assert "set:" not in capsys.readouterr().out


def test_the_whole_recipe_is_told_before_a_run(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(written), "--verbose"]) == 0
    told = capsys.readouterr().out
    shown = told[told.index("\nname:") : told.index("\ntrains ")]
    assert yaml.safe_load(shown) == read_recipe(str(written)).model_dump(mode="json")


def test_a_plan_for_more_processes_than_the_batch_has_rows(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(written), "--dry-run", "--processes", "8"]) == 2
    assert "not a multiple of 1 rows at once x 8 processes" in capsys.readouterr().err


def test_a_run_stops_at_what_was_found(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((written.parent / "rows.json").read_text())
    rows[1]["image"] = "gone.png"
    (written.parent / "rows.json").write_text(json.dumps(rows))
    assert main(["data", "check", str(written)]) == 3
    assert "missing file: 1: " in capsys.readouterr().out
    assert main(["train", str(written)]) == 1
    assert "found rows that a run stops at (missing file: 1; " in capsys.readouterr().err


def test_check_reads_lengths_as_a_run_does(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a recipe cuts or leaves out is told and no fault."""
    longest = ["max_length=140"]
    assert main(["data", "check", str(written), *longest]) == 3
    assert "too long" in capsys.readouterr().out
    for rule in ("cut", "drop"):  # exits with 0 where the longer row can be cut
        told_as = {"cut": "longer, and cut", "drop": "longer, and left out"}[rule]
        assert main(["data", "check", str(written), *longest, f"too_long={rule}"]) == 0
        assert told_as in capsys.readouterr().out
