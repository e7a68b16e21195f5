"""`beholder inspect`, `convert`, `models`, `env` and `ground`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.api import VLM
from beholder.cli import main
from beholder.cli.convert import by_part


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), llama3_tokenizer)


def test_inspect_a_whole_checkpoint(model: Path, capsys):
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr().out
    for fact in ("360VL", "published", "F32", "192", "Llama-3", "whole: yes"):
        assert fact in shown


def test_inspect_json_has_everything(model: Path, capsys):
    assert main(["inspect", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "qh360vl"
    assert report["problems"] == []
    assert report["geometry"]["context"] == 192


def test_inspect_a_broken_one(model: Path, tmp_path: Path, capsys):
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    tensors = load_file(model / "model.safetensors")
    gone = sorted(tensors)[:12]
    save_file(
        {name: tensor for name, tensor in tensors.items() if name not in gone}, tmp_path / "model.safetensors"
    )
    assert main(["inspect", str(tmp_path)]) == 3
    shown = capsys.readouterr().out
    assert "problem: 12 missing" in shown
    assert f"missing: {gone[0]}" in shown
    assert "... and 2 more" in shown
    assert main(["inspect", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["missing"] == gone


def test_inspect_what_is_none(tmp_path: Path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err


def test_convert_there_and_back(model: Path, tmp_path: Path, capsys):
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(model), str(ours), "--to", "ours"]) == 0
    assert "ours layout" in capsys.readouterr().out
    assert main(["convert", str(ours), str(back), "--to", "published", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_identical"] is True
    for path in model.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()
    assert main(["convert", str(ours), str(back), "--to", "published"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_the_map_of_a_conversion_accounts_for_every_tensor(model: Path, tmp_path: Path, capsys):
    assert main(["convert", str(model), str(tmp_path / "short"), "--to", "ours"]) == 0
    head, checksum, *parts = capsys.readouterr().out.splitlines()
    assert checksum.startswith("checksum of the parameters")
    written = int(re.search(r"(\d+) tensors in", head)[1])
    assert sum(int(re.search(r"\((\d+) tensors?\)$", part)[1]) for part in parts) == written
    assert len(parts) < 10
    layers = sum(name.startswith("model.layers.") for name in load_file(model / "model.safetensors"))
    assert f"model.layers.* -> model.language_model.layers.*  ({layers} tensors)" in parts
    assert main(["convert", str(model), str(tmp_path / "long"), "--to", "ours", "--verbose"]) == 0
    each = capsys.readouterr().out.splitlines()[2:]
    assert {line.split(" -> ")[1] for line in each} == set(load_file(tmp_path / "long" / "model.safetensors"))
    assert len(each) == written


def test_tensors_that_are_taken_apart_are_counted_on_both_sides():
    made = {f"model.layers.{n}.{part}.weight": (f"old.{n}.qkv.weight",) for n in (0, 1) for part in "qkv"}
    made |= {"model.norm.weight": ("old.a", "other.b")}
    assert by_part(made) == [
        "old.* -> model.layers.*  (6 tensors made of 2)",
        "* -> model.norm.weight  (1 tensor made of 2)",
    ]


def test_models(capsys):
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "beholder-mini" in shown
    assert "qihoo360/360VL-8B" in shown
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {
        "name": "beholder-mini", "family": "qh360vl", "where": "in the package"
    }  # fmt: skip


def test_env(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "cpu" in facts["devices"]
    assert facts["packages"].keys() >= {"python", "torch", "transformers"}
    assert main(["env"]) == 0
    assert "transformers" in capsys.readouterr().out


@pytest.fixture
def scene(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A picture, and a model that gives one answer and remembers the question."""
    asked: list[str] = []

    def answer_with(text: str) -> list[str]:
        def chat(self: VLM, messages, **_):
            from beholder import Answer, Timings, Usage

            asked.append(messages[-1].text)
            return Answer(text, "stop", Usage(1, 0, 1), Timings(0, 0, 0), self.boxes(text, messages))

        monkeypatch.setattr(VLM, "chat", chat)
        return asked

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "red").save("red.png")
    return answer_with


def test_ground(model: Path, scene, capsys):
    asked = scene("[[500,250,750,750]]")
    assert main(["ground", "red.png", "blue star", "-m", str(model)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "20.0 0.0 30.0 20.0\n"
    assert captured.err == "wrote red-boxes.png\n"
    assert asked == ["What is the bounding box of the blue star?"]
    with Image.open("red-boxes.png") as drawn:
        assert drawn.getpixel((20, 10)) != (255, 0, 0)
        assert drawn.getpixel((5, 10)) == (255, 0, 0)


def test_ground_json_and_where(model: Path, scene, capsys):
    scene("[[500,250,750,750]]")
    assert (
        main(
            [
                "ground",
                "red.png",
                "star",
                "-m",
                str(model),
                "--json",
                "--out",
                "x.jpg",
                "--question",
                "{phrase}?",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["boxes"] == [{"x1": 20.0, "y1": 0.0, "x2": 30.0, "y2": 20.0, "picture": 0}]
    assert told["picture"] == "x.jpg"
    assert (told["space"], told["width"], told["height"], told["reason"]) == ("pixels", 40, 20, "")
    with Image.open("x.jpg") as drawn:
        assert drawn.size == (40, 20)


def test_ground_without_a_box(model: Path, scene, capsys):
    scene("over there")
    assert main(["ground", "red.png", "star", "-m", str(model)]) == 1
    captured = capsys.readouterr()
    assert "the model gave no box (the answer holds no box); it said: over there" in captured.err
    assert not captured.out


def test_ground_without_a_box_for_programs(model: Path, scene, capsys):
    """An empty list and the reason, whatever the model said; the exit code says that nothing was found."""
    scene("[[900,0,100,5]]")
    assert main(["ground", "red.png", "star", "-m", str(model), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["boxes"], told["labels"], told["picture"]) == ([], [], None)
    assert "wrong order" in told["reason"]
    assert main(["ground", "red.png", "star", "-m", str(model), "--export", "coco"]) == 1
    assert json.loads(capsys.readouterr().out)["annotations"] == []


def test_ground_in_the_files_of_other_programs(model: Path, scene, capsys):
    scene("[[500,250,750,750]]")
    told = {}
    for name in ("coco", "csv", "labelstudio"):
        assert main(["ground", "red.png", "star", "-m", str(model), "-o", "x.png", "--export", name]) == 0
        told[name] = capsys.readouterr().out
    (box,) = json.loads(told["coco"])["annotations"]
    assert box["bbox"] == [20.0, 0.0, 10.0, 20.0]
    assert told["csv"].splitlines()[1] == "red.png,40,20,star,20.0,0.0,30.0,20.0"
    (task,) = json.loads(told["labelstudio"])
    assert task["predictions"][0]["result"][0]["value"]["rectanglelabels"] == ["star"]


def test_ground_writes_labels(model: Path, scene, capsys):
    scene("[[250,500,750,750]]")
    Image.new("RGB", (300, 300), "red").save("red.png")
    for option in ("--labels", "--no-labels"):
        assert main(["ground", "red.png", "star", "-m", str(model), option, "-o", f"{option}.png"]) == 0
    with Image.open("--labels.png") as named, Image.open("--no-labels.png") as bare:
        changed = ImageChops.difference(named, bare).getbbox()
    assert changed is not None
    assert changed[3] <= 151, "the label stands above the box"


@pytest.mark.parametrize(
    "arguments",
    [
        ["red.png", " "],
        ["red.png", "star", "--question", "where?"],
        ["red.png", "star", "--json", "--export", "csv"],
    ],
)
def test_ground_wrong_usage(scene, arguments):
    scene("")
    assert main(["ground", *arguments]) == 2
