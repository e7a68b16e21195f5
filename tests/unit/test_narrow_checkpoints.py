"""Folders whose language model is stored in 8 or 4 bits: written, told, opened, and refused where wrong."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from beholder.checkpoints.inspect import examine
from beholder.checkpoints.loader import check, open_model, stored_dtype
from beholder.checkpoints.narrow import Choice, narrow_linears, stored_choice
from beholder.checkpoints.quantize import measure, parameter_bytes
from beholder.checkpoints.reader import INDEX
from beholder.checkpoints.writer import convert
from beholder.cli import main
from beholder.core.errors import BeholderError, CheckpointError, ConfigError
from beholder.core.narrow import Narrow, quantize
from beholder.core.narrow_linear import NarrowLinear
from beholder.families import identify_folder
from beholder.mini import FOLDER as MINI

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FOLDERS = {
    "qh360vl": GOLDEN / "360vl",
    "llava": GOLDEN / "llava" / "llava" / "model",
    "internvl": GOLDEN / "llava" / "internvl" / "model",
    "cogvlm": GOLDEN / "cogvlm" / "model",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A golden in our layout, quantized."""
    made: dict[tuple[str, str], Path] = {}

    def folder(name: str, weights: str) -> Path:
        if (name, weights) not in made:
            source, target = FOLDERS[name], tmp_path_factory.mktemp("narrow") / f"{name}-{weights}"
            convert(source, target, identify_folder(source), "ours", quantize=Choice(weights, 32))
            made[name, weights] = target
        return made[name, weights]

    return folder


def opened(folder: Path, **more: Any) -> Any:
    return open_model(folder, identify_folder(folder), device="cpu", **more)


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= {name: tensor.clone() for name, tensor in load_file(file).items()}
        file.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigured(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= settings
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_holds_what_its_dense_one_is_quantized_to(name, weights, converted):
    dense, narrow = opened(FOLDERS[name]), opened(converted(name, weights))
    linears = narrow_linears(dense)
    per_layer = len(dense.get_decoder().layers) * 7
    assert len(linears) == per_layer + 1
    assert sum(linears.values()) == 1
    assert not any("vision" in linear for linear in linears)
    for linear, is_head in linears.items():
        form = Narrow("int8" if is_head else weights, 32)
        codes, scales = quantize(dense.get_submodule(linear).weight, form)
        held = narrow.get_submodule(linear)
        assert isinstance(held, NarrowLinear)
        assert torch.equal(held.codes, codes)
        assert torch.equal(held.scales, scales)
        assert not held.scales.requires_grad
    kept = dict(narrow.named_parameters())
    for parameter, tensor in dense.named_parameters():
        if parameter.removesuffix(".weight") not in linears:
            assert torch.equal(kept[parameter], tensor), parameter
            assert kept[parameter].dtype == tensor.dtype
    assert parameter_bytes(narrow) < parameter_bytes(dense)
    assert (
        narrow.dtype
        == dense.dtype
        == stored_dtype(check(converted(name, weights), identify_folder(FOLDERS[name]))[1])
    )


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", FOLDERS)
def test_on_loading_the_same_is_made(name, weights):
    made, dense = opened(FOLDERS[name], quantize=weights), opened(FOLDERS[name])
    assert stored_choice(made.config) == Choice(weights)
    for linear, is_head in narrow_linears(dense).items():
        form = Narrow("int8" if is_head else weights)
        codes, scales = quantize(dense.get_submodule(linear).weight, form)
        held = made.get_submodule(linear)
        assert held.narrow == form
        assert torch.equal(held.codes, codes)
        assert torch.equal(held.scales, scales)


def test_what_was_quantized_on_loading_is_saved_and_opens(tmp_path):
    made = opened(MINI, quantize="int4")
    made.save_pretrained(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    state = made.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    with pytest.raises(
        ConfigError, match="is stored as int4 in groups of 64, the head int8 already; leave quantize"
    ):
        opened(tmp_path / "saved", quantize="int8")


def test_the_auto_classes_open_it(converted):
    from transformers import AutoModelForImageTextToText

    folder = converted("llava", "int4")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, opened(folder)(input_ids=ids).logits)


def test_matrices_are_read_one_by_one(monkeypatch):
    """Never are two dense ones of the language model there at once, and none is ever in the model."""
    real = NarrowLinear.of.__func__
    seen: list[weakref.ref[torch.Tensor]] = []

    def watched(cls: Any, linear: Any, form: Any, weight: Any = None) -> Any:
        assert linear.weight.device.type == "meta"
        assert not any(other() is not None for other in seen)
        seen.append(weakref.ref(weight))
        return real(cls, linear, form, weight)

    monkeypatch.setattr(NarrowLinear, "of", classmethod(watched))
    opened(FOLDERS["llava"], quantize="int8")
    assert len(seen) > 7


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"group": 64}, r"of another shape: .*scales is .* and must be .*; config.json says that weights are "
                        r"int4 in groups of 64, the head int8, and these are not: one of the two was"),
        ({"weights": "int8"}, r"config.json says that weights are int8, the head int8, and these are not"),
        ({"group": 48}, r"groups of 48 weights cannot share a scale"),
        ({"weights": "int2"}, r"weights 'int2' are no narrow form"),
        ({"symmetric": True}, r"quantization_config has symmetric; known: weights, group, head"),
        ({"head": None}, r"weights None are no narrow form"),
    ],
)  # fmt: skip
def test_a_changed_configuration_is_refused(settings, told, converted, tmp_path):
    folder = copied(converted("llava", "int4"), tmp_path / "changed")
    reconfigured(folder, **settings)
    with pytest.raises(BeholderError, match=told):
        opened(folder)


FIRST = "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda held: held.pop(f"{FIRST}.scales"), rf"1 missing: {FIRST}.scales"),
        (lambda held: held.pop(f"{FIRST}.codes"), rf"1 missing: {FIRST}.codes"),
        (lambda held: held.update({f"{FIRST}.weight": torch.ones(2)}), rf"1 unknown: {FIRST}.weight"),
        (
            lambda held: held.update({f"{FIRST}.codes": held[f"{FIRST}.codes"][:-1].clone()}),
            "1 of another shape",
        ),
        (
            lambda held: held.update({f"{FIRST}.codes": held[f"{FIRST}.codes"].to(torch.int8)}),
            rf"{FIRST}.codes is stored as I8 and must be U8",
        ),
        (
            lambda held: held.update({f"{FIRST}.scales": held[f"{FIRST}.scales"].float()}),
            rf"{FIRST}.scales is stored as F32 and must be BF16",
        ),
    ],
    ids=["scales", "codes", "dense", "short", "signed", "wide"],
)
def test_changed_tensors_are_refused(change, told, converted, tmp_path):
    folder = copied(converted("llava", "int4"), tmp_path / "changed")
    changed(folder, change)
    with pytest.raises(CheckpointError, match=told):
        opened(folder)
    assert examine(folder, identify_folder(folder)).problems


def test_no_narrow_tensors_without_the_configuration(converted, tmp_path):
    folder = copied(converted("llava", "int8"), tmp_path / "changed")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="missing"):
        opened(folder)


@pytest.mark.parametrize("how", ["convert", "load"])
def test_weights_that_are_no_numbers_are_refused(how, tmp_path):
    source, name = FOLDERS["llava"], f"{FIRST.removesuffix('q_proj')}o_proj.weight"
    folder = convert(source, tmp_path / "dense", identify_folder(source), "ours").target
    changed(folder, lambda held: held[name][1, 2:3].fill_(torch.inf))
    ways: dict[str, Callable[[], Any]] = {
        "load": lambda: opened(folder, quantize="int4"),
        "convert": lambda: convert(
            folder, tmp_path / "made", identify_folder(folder), "ours", quantize=Choice("int4")
        ),
    }
    with pytest.raises(ConfigError, match=r"o_proj.weight: 1 of .* weights are infinite or no number"):
        ways[how]()
    assert not (tmp_path / "made").exists()
    assert not list(tmp_path.glob("*.partial-*"))


def test_what_is_not_written(converted, tmp_path):
    family = identify_folder(FOLDERS["llava"])
    with pytest.raises(
        ConfigError, match="quantized in our own layout alone, not in published; use --to ours"
    ):
        convert(FOLDERS["llava"], tmp_path / "a", family, "published", quantize=Choice("int8"))
    for to in ("published", "ours", "llava-hf"):
        with pytest.raises(ConfigError, match="which no other layout has; convert the dense model"):
            convert(converted("llava", "int4"), tmp_path / "a", family, to)


def test_inspect_and_convert_say_what_it_is(tmp_path, capsys):
    target = tmp_path / "mini-int4"
    told = ["convert", str(MINI), str(target), "--to", "ours", "--quantize", "int4", "--group", "32"]
    assert main(told) == 0
    assert "in every layout the same" not in capsys.readouterr().out
    assert main(["inspect", str(MINI), "--json"]) == 0
    dense = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(target), "--json"]) == 0
    narrow = json.loads(capsys.readouterr().out)
    assert narrow["quantization"] == "int4 in groups of 32, the head int8"
    assert dense["quantization"] == ""
    assert narrow["parameters"] == dense["parameters"]
    assert narrow["bytes"] < dense["bytes"]
    assert main(["inspect", str(target)]) == 0
    assert "int4 in groups of 32, the head int8" in capsys.readouterr().out
    for wrong in (["--quantize", "8bit"], ["--quantize", "int4", "--group", "16"]):
        assert main(["convert", str(MINI), str(tmp_path / "no"), "--to", "ours", *wrong]) == 2
    assert not (tmp_path / "no").exists()


# Mean divergence in nats and share of equal greedy tokens on the built-in model, with room.
GATES = {"int8": (0.001, 0.95), "int4": (0.05, 0.9)}


@pytest.mark.parametrize("weights", GATES)
def test_what_it_costs_the_built_in_model(weights, record_property):
    from tests.unit.test_quantize import prompts

    most, least = GATES[weights]
    dense = opened(MINI, dtype="float32")
    cost = measure(dense, opened(MINI, dtype="float32", quantize=weights), prompts("mini"), length=12)
    record_property("cost", str(cost))
    cost.confirm(most_divergence=most, least_agreement=least)
    assert cost.bytes_quantized < cost.bytes_dense
