"""The captcha example from drawing to score, every stage as its packaged recipe says but for two steps."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from beholder.checkpoints.loader import open_model
from beholder.cli import main
from beholder.families import identify_folder
from beholder.training.captcha.start import write_blank

pytestmark = pytest.mark.slow

LEARNING = ("tower", "base", "crowded", "look", "read")
ADAPTING = ("lora", "tune")
SHORT = ("steps=2", "save_every=2", "log_every=1", "global_batch=4", "device_batch=4", "workers=0")
PARTS = ("vision_tower", "multi_modal_projector", "vision_expert", "language_expert")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "captcha_page.py"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the page's commands leave, at the size of a test."""
    here = tmp_path_factory.mktemp("captcha")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        run("data", "captchas", "data/captcha/archive", "--pictures", "40")
        run("data", "split", "data/captcha/archive", "data/captcha/split")
        for hand in ("plain", "crowded", "heavy"):
            for part in range(10):
                drawn = f"data/captcha/{hand}-{part}"
                run("data", "captchas", drawn, "--hand", hand, "--seed", str(part), "--pictures", "2")
        write_blank(Path("runs/captcha/blank"))
        for stage in (*LEARNING, *ADAPTING):
            run("train", f"captcha/{stage}", *SHORT)
        for stage in ADAPTING:
            run("merge", f"runs/captcha/{stage}/adapter", f"runs/captcha/{stage}-merged")
        for model in ("read/model", "lora/adapter", "lora-merged", "tune/adapter", "tune-merged"):
            out = f"runs/captcha/eval/{model.split('/')[0]}-test"
            asked = ("--model", f"runs/captcha/{model}", "--data", "data/captcha/split/test")
            run("eval", "captcha", *asked, "--style", "plain", "--out", out)
    return here / "runs" / "captcha"


def run(*arguments: str) -> None:
    assert main(arguments) == 0, arguments


def changed(before: Path, after: Path) -> set[str]:
    """The parts of a model, as recipes name them, in which a number differs."""
    old, new = (
        open_model(f, identify_folder(f), device="cpu", dtype="float32").state_dict() for f in (before, after)
    )
    assert old.keys() == new.keys()
    return {part_of(name) for name, tensor in old.items() if not tensor.equal(new[name])}


def part_of(name: str) -> str:
    """Which of PARTS is in a tensor's name."""
    return next((part for part in PARTS if part in name), "rest")


def test_a_tower_stage_trains_the_tower_alone(example: Path) -> None:
    assert changed(example / "blank", example / "tower" / "model") == {"vision_tower"}
    assert changed(example / "crowded" / "model", example / "look" / "model") == {"vision_tower"}


def test_a_reading_stage_trains_the_whole_model(example: Path) -> None:
    for before, after in (("tower", "base"), ("base", "crowded"), ("look", "read")):
        assert changed(example / before / "model", example / after / "model") == {*PARTS, "rest"}


def test_adapters_change_both_experts_and_more_parameters_what_sees_too(example: Path) -> None:
    read = example / "read" / "model"
    experts = {"vision_expert", "language_expert"}
    assert changed(read, example / "lora-merged") == experts
    assert changed(read, example / "tune-merged") == {*experts, "vision_tower", "multi_modal_projector"}


@pytest.mark.parametrize("stage", ADAPTING)
def test_the_merged_model_answers_as_the_adapter(example: Path, stage: str) -> None:
    answers = [
        [
            json.loads(line)["answer"]
            for line in (folder / "captcha" / "answers.jsonl").read_text().splitlines()
        ]
        for folder in (example / "eval" / f"{stage}-test", example / "eval" / f"{stage}-merged-test")
    ]
    assert len(answers[0]) == len(list((example.parents[1] / "data/captcha/split/test").glob("*.jpg")))
    assert answers[0] == answers[1]


def test_the_page_is_made_of_what_the_run_left(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for file in (PAGE, PAGE.with_name("captcha.txt")):
        shutil.copy(file, docs)
    page = runpy.run_path(str(docs / PAGE.name))
    monkeypatch.setattr(sys, "argv", [PAGE.name, "collect", str(example)])
    page["main"]()
    told = (docs / "captcha.md").read_text()
    for stage in (*LEARNING, *ADAPTING):
        assert f"| `captcha/{stage}` | 2 | 8 |" in told
    assert "There are no records" not in told
    assert (docs / "pictures" / "captcha-loss.svg").is_file()
