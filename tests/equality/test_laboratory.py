"""The laboratory: what it changes and what it keeps the same; all of it at its tiny budget, twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from beholder.core.errors import ConfigError, InputError
from beholder.laboratory.budget import BUDGETS
from beholder.laboratory.experiment import materials, read_records, run_laboratory, write_start
from beholder.laboratory.lettering import learn
from beholder.laboratory.materials import SQUARE, as_caption, as_text, on_square, single_turns
from beholder.laboratory.subjects import SUBJECTS, Sizes, give_language, raw_language, read_language
from beholder.laboratory.summary import SPEED, points, table
from beholder.mini.questions import Question

TINY = BUDGETS["tiny"]


def test_questions_move_with_the_stretched_picture() -> None:
    row = {"image": "a.png", "width": 100, "height": 50, "truth": {"box": [10, 5, 20, 10]}}
    moved = on_square(row, (100, 50))
    assert moved["truth"]["box"] == pytest.approx([0.1 * SQUARE, 0.1 * SQUARE, 0.2 * SQUARE, 0.2 * SQUARE])
    assert (moved["width"], moved["height"]) == (SQUARE, SQUARE)
    assert row["truth"]["box"] == [10, 5, 20, 10]


def test_each_question_becomes_a_row_with_the_picture() -> None:
    turns = [
        {"from": "human", "value": "<image>\nOne?"}, {"from": "gpt", "value": "1"},
        {"from": "human", "value": "Two?"}, {"from": "gpt", "value": "2"},
    ]  # fmt: skip
    singles = single_turns({"id": "a", "image": "a.png", "conversations": turns})
    assert [row["id"] for row in singles] == ["a/0", "a/1"]
    assert [row["conversations"][0]["value"] for row in singles] == ["<image>\nOne?", "<image>\nTwo?"]
    assert [row["conversations"][1]["value"] for row in singles] == ["1", "2"]


def test_a_scene_becomes_a_text_and_a_caption() -> None:
    turns = [
        {"from": "human", "value": "<image>\nOne?"}, {"from": "gpt", "value": "1"},
        {"from": "human", "value": "Two?"}, {"from": "gpt", "value": "2"},
    ]  # fmt: skip
    scene = {"id": "a", "image": "a.png", "conversations": turns}
    told = Question("describe_boxes", "en", "What is where?", "There is 1 object.", {})
    row = as_text(scene, told)
    assert "image" not in row
    assert row["conversations"][1] == {"from": "gpt", "value": "There is 1 object.\nOne? 1\nTwo? 2"}
    assert as_caption(scene, told) == {
        "id": "a/caption",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is where?"},
            {"from": "gpt", "value": "There is 1 object."},
        ],
    }


def test_the_words_of_templates_are_single_tokens(tmp_path: Path) -> None:
    asked = {"from": "human", "value": "<image>\nIs the star blue?"}
    rows = [{"conversations": [asked, {"from": "gpt", "value": "Yes."}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    tokenizer = learn(tmp_path / "rows.json")
    written = tokenizer.encode("[INST] Question: is it [/INST] Short answer:", add_special_tokens=False)
    for word in ("[INST]", "Question:", "[/INST]", "Short\u2581answer:"):
        assert f"\u2581{word}" in written.tokens
    assert tokenizer.decode(written.ids) == "[INST] Question: is it [/INST] Short answer:"


@pytest.mark.parametrize("name", SUBJECTS)
def test_all_language_models_are_the_same(name: str) -> None:
    sizes = TINY.sizes
    shared = raw_language(sizes, 300, seed=4)
    model = SUBJECTS[name].build(sizes, 300, 299)
    give_language(model, shared)
    state = dict(model.named_parameters())
    experts = [key for key in state if ".q_proj." in key and "language_model" in key]
    assert len(experts) == sizes.layers * (2 if name == "experts" else 1)
    assert all(torch.equal(state[key], shared["model.layers.0.self_attn.q_proj.weight"]) for key in experts)
    assert torch.equal(state["lm_head.weight"], shared["lm_head.weight"])


def test_points_must_be_even() -> None:
    with pytest.raises(ConfigError, match="5 steps cannot be scored at 2 even points"):
        replace(TINY, tune_steps=5, marks=2)


def test_towers_of_a_kind_have_one_geometry() -> None:
    sizes = Sizes()
    mlp, abstractors = (SUBJECTS[name].build(sizes, 300, 299) for name in ("mlp", "abstractors"))
    shapes = [
        {name: tuple(value.shape) for name, value in model.state_dict().items() if ".vision_tower." in name}
        for model in (mlp, abstractors)
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0]


def tower_weights(folder: Path) -> dict[str, torch.Tensor]:
    stored = load_file(folder / "model.safetensors")
    return {key: value for key, value in stored.items() if "vision_tower" in key}


@pytest.mark.slow
def test_the_whole_runs_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    everything = run_laboratory(tmp_path, TINY, [0], list(SUBJECTS))
    *records, speeds = everything
    assert (speeds.subject, set(speeds.values)) == (SPEED, set(SUBJECTS))
    assert all(milliseconds > 0 for milliseconds in speeds.values.values())
    assert [(record.subject, record.settings["step"]) for record in records] == [
        (name, step) for name in SUBJECTS for step in (1, 2)
    ]
    assert all(record.samples > 0 and 0 <= record.values["overall"] <= 1 for record in records)
    slots = {record.subject: record.values["tokens_per_picture"] for record in records}
    assert slots == {"mlp": 64, "large-tower": 64, "abstractors": 32, "experts": 66}
    for record in records:
        assert record.values["training_petaflops"] > 0
    # One language model, which has learned, stands in all.
    learned = read_language(tmp_path / "language" / "texts" / "model")
    raw = read_language(tmp_path / "language" / "blank")
    assert any(not torch.equal(learned[name], raw[name]) for name in raw)
    for name in SUBJECTS:
        begun = load_file(tmp_path / f"{name}-0" / "start" / "model.safetensors")
        assert torch.equal(begun["lm_head.weight"], learned["lm_head.weight"])
        # So does the tower of its kind, which has learned.
        kind = tmp_path / "towers" / SUBJECTS[name].tower
        raw_tower, warm = tower_weights(kind / "blank"), tower_weights(kind / "warm" / "model")
        assert any(not torch.equal(raw_tower[key], warm[key]) for key in warm)
        assert all(torch.equal(begun[key], warm[key]) for key in warm)
        read = {
            stage: [Path(source["rows"]).name for source in json.loads(recipe.read_text())["data"]]
            for stage in ("align", "tune")
            if (recipe := tmp_path / f"{name}-0" / stage / "recipe.json").is_file()
        }
        assert read == {"align": ["captions.json"], "tune": ["rows.json", "captions.json"]}
    with Image.open(next((tmp_path / "test" / "square" / "images").iterdir())) as picture:
        assert picture.size == (SQUARE, SQUARE)

    # What lies between them is another seed's own.
    drawn = materials(tmp_path, TINY, None)
    other = load_file(write_start(SUBJECTS["mlp"], tmp_path, TINY, 1, drawn) / "model.safetensors")
    begun = load_file(tmp_path / "mlp-0" / "start" / "model.safetensors")
    differing = {key for key in begun if not torch.equal(begun[key], other[key])}
    assert differing
    assert all(".multi_modal_projector." in key for key in differing)

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert run_laboratory(tmp_path, TINY, [0], list(SUBJECTS)) == everything
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert read_records(tmp_path / "records") == [
        *sorted(records, key=lambda r: f"{r.subject}-0-{r.settings['step']}"),
        speeds,
    ]

    found = points(everything)
    means = {point.subject: point.mean["first_token_ms"] for point in found}
    assert means == speeds.values
    with pytest.raises(InputError, match="no record has the speed of abstractors, experts, large-tower, mlp"):
        points(records)
    assert len(found) == 8
    assert len(table(found).splitlines()) == 5
    json.dumps([vars(point) for point in found])
