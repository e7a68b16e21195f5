"""Scores and uploads equal those of LLaVA's scorers and converters on the same answer files."""

from __future__ import annotations

import json
import re

import pytest
from tests.parity.golden_eval import LLAVA, card, lines, read

from beholder.core.errors import InputError
from beholder.evaluation.files import read_answers
from beholder.evaluation.metrics.soft_score import textvqa_score
from beholder.evaluation.metrics.words import normal_form
from beholder.evaluation.pairing import by_row
from beholder.evaluation.tasks import find_task
from beholder.evaluation.tasks.mmbench import key_of, sheet_rows


def test_gqa(tmp_path):
    folder = LLAVA / "gqa"
    expected = read(folder / "expected.json")
    values = card("gqa", folder / "merge.jsonl", folder, tmp_path).values
    for name in ("binary", "open", "accuracy"):
        assert round(100 * values[name], 2) == expected[name]
    assert round(values["distribution"], 2) == expected["distribution"]
    kinds = re.findall(r"^  (\w+): ([\d.]+)% \((\d+) questions\)$", expected["stdout_tail"], re.MULTILINE)
    assert len(kinds) == 18
    printed = {
        (name.split(": ")[1], f"{100 * value:.2f}") for name, value in values.items() if _is_kind(name)
    }
    assert printed == {(kind, share) for kind, share, _ in kinds}
    assert read(tmp_path / "testdev_balanced_predictions.json") == expected["converted"]


def _is_kind(name: str) -> bool:
    return ": " in name and not name.endswith((".low", ".high", ".samples"))


def test_scienceqa(tmp_path):
    folder = LLAVA / "scienceqa"
    expected = read(folder / "expected.json")
    values = card("scienceqa", folder / "answers.jsonl", folder, tmp_path).values
    assert 100 * values["accuracy"] == pytest.approx(expected["acc"], abs=1e-9)
    assert f"IMG-Accuracy: {100 * values['image_accuracy']:.2f}%" in expected["stdout"]
    scored = {line["id"]: line["scores"] for line in lines(tmp_path / "answers.jsonl")}
    assert {name: one["choice"] for name, one in scored.items()} == expected["results"]
    assert {name: one["letter"] for name, one in scored.items()} == expected["parsed"]
    assert {name for name, one in scored.items() if one["right"]} == set(expected["correct_ids"])


def test_seed(tmp_path):
    folder = LLAVA / "seed"
    expected = read(folder / "expected.json")
    values = card("seed", folder / "merge.jsonl", folder, tmp_path).values
    for line in expected["stdout"].splitlines():
        name, share = line.rsplit(": ", 1)
        ours = {"Total accuracy": "accuracy", "image accuracy": "image", "video accuracy": "video"}.get(
            name, name
        )
        assert f"{100 * values[ours]:.2f}%" == share, name
    text = "".join(json.dumps(entry) + "\n" for entry in expected["upload"])
    assert (tmp_path / "seed_upload.jsonl").read_text() == text


def test_textvqa(tmp_path):
    folder = LLAVA / "textvqa"
    expected = read(folder / "expected.json")
    values = card("textvqa", folder / "answers.jsonl", folder, tmp_path).values
    assert values["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
    per_item = [line["scores"]["value"] for line in lines(tmp_path / "answers.jsonl")]
    assert per_item == pytest.approx(expected["per_item"], abs=1e-12)
    assert {text: normal_form(text) for text in expected["processor"]} == expected["processor"]


def test_more_than_32_full_stops():
    """The original takes a flag for the count of replacements."""
    said = "a." * 40
    assert normal_form(said).count(".") == 8
    assert normal_form(said, strict=True) == "a" * 40
    assert textvqa_score(said, ["a" * 40] * 10) == 0
    assert textvqa_score(said, ["a" * 40] * 10, strict=True) == 1


def test_vqav2_upload(tmp_path):
    folder = LLAVA / "vqav2"
    record = card("vqav2", next(folder.glob("answers/*/*/merge.jsonl")), folder, tmp_path)
    assert (tmp_path / "vqav2_upload.json").read_text() == json.dumps(
        read(folder / "expected.json")["upload"]
    )
    assert record.values == {}


def test_vizwiz_upload(tmp_path):
    folder = LLAVA / "vizwiz"
    card("vizwiz", folder / "answers.jsonl", folder, tmp_path)
    assert (tmp_path / "vizwiz_upload.json").read_text() == json.dumps(
        read(folder / "expected.json")["upload"]
    )


def test_vizwiz_needs_every_answer(tmp_path):
    folder = LLAVA / "vizwiz"
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join((folder / "answers.jsonl").read_text().splitlines()[:5]) + "\n")
    with pytest.raises(InputError, match="rows have no answer"):
        card("vizwiz", short, folder, tmp_path / "out")


def test_mmvet_upload(tmp_path):
    folder = LLAVA / "mmvet"
    data = tmp_path / "data"
    data.mkdir()
    answers = lines(folder / "answers.jsonl")
    listed = [{"question_id": a["question_id"], "image": "x.png", "text": a["prompt"]} for a in answers]
    (data / "llava-mm-vet.jsonl").write_text("".join(json.dumps(line) + "\n" for line in listed))
    task = find_task("mm-vet")
    said = read_answers(folder / "answers.jsonl")
    assert task.convert
    (content,) = task.convert(said, data).values()
    assert content.decode() == read(folder / "expected.json")["file_text"]
    (tmp_path / "upload.json").write_bytes(content)
    again = read_answers(tmp_path / "upload.json")
    assert task.pair
    assert [reply.text for _, reply in task.pair(again, task.load(data))] == [a["text"] for a in answers]


def test_mmvet_grades(tmp_path):
    folder = LLAVA / "mmvet_score"
    expected = read(folder / "expected.json")
    grades = folder / "results" / "tiny_gpt-4-0613-grade-3runs.json"
    values = card("mm-vet", grades, folder, tmp_path).values
    capability = expected["capability"]
    assert json.loads(capability.pop("runs")) == [values[f"run {run}"] for run in (1, 2, 3)]
    assert {name: values[name] for name in capability} == capability
    together = {
        name: share for name, share in expected["capability_integration_sorted_names"].items()
        if name not in ("total", "std", "runs")
    }  # fmt: skip
    assert {name: values[f"together: {name}"] for name in together} == together


def test_mmbench_sheet(tmp_path):
    folder = LLAVA / "mmbench"
    expected = read(folder / "expected.json")
    task = find_task("mmbench")
    answers = read_answers(folder / "answers" / "tiny.jsonl")
    pairs = by_row(key_of, missing="empty")(answers, task.load(folder))
    columns, *rows = sheet_rows(pairs, folder / "mmbench_dev.tsv")
    assert columns == expected["columns"]
    assert [dict(zip(columns, row, strict=True)) for row in rows] == expected["rows"]


def test_pope(tmp_path):
    folder = LLAVA / "pope"
    values = card("pope", folder / "answers.jsonl", folder, tmp_path).values
    expected = read(folder / "expected.json")
    for category, figures in expected.items():
        for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert values[f"{name}.{category}"] == pytest.approx(figures[name], abs=1e-12), (category, name)
        assert values[f"f1.{category}.samples"] == figures["samples"]
    assert values["f1_mean"] == pytest.approx(sum(one["f1"] for one in expected.values()) / 3, abs=1e-12)


def test_mme(tmp_path):
    folder = LLAVA / "mme"
    expected = read(folder / "expected.json")
    values = card("mme", folder / "answers" / "tiny.jsonl", folder, tmp_path).values
    for group in ("Perception", "Cognition"):
        figures = expected[group]
        assert values[group.lower()] == pytest.approx(figures.pop("total"), abs=1e-9)
        assert {name: values[name] for name in figures} == pytest.approx(figures, abs=1e-9)
    written = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "mme").iterdir()}
    assert written == expected["converted"]
