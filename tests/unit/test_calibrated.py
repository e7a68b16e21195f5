"""Weights of 4 bits that are fitted to inputs: beside a twin that solves anew, and as folders."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.unit.test_narrow_checkpoints import FOLDERS, opened
from torch import Tensor

from beholder.checkpoints.calibrated import DAMPING, best_scale, calibrated, narrowed
from beholder.checkpoints.narrow import Choice, narrow_linears
from beholder.checkpoints.writer import convert
from beholder.cli import main
from beholder.core.errors import ConfigError
from beholder.core.narrow import GROUPS, Narrow, dequantize, quantize
from beholder.families import identify_folder
from beholder.mini import FOLDER as MINI
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

ROWS = 6


def drawn(columns: int, samples: int) -> tuple[Tensor, Tensor]:
    """A matrix, and inputs whose columns have much in common."""
    source = torch.Generator().manual_seed(columns)
    shared = torch.randn(samples, 4, generator=source) @ torch.randn(4, columns, generator=source)
    inputs = shared + 0.3 * torch.randn(samples, columns, generator=source)
    return torch.randn(ROWS, columns, generator=source), inputs


def by_solving(weight: Tensor, moments: Tensor, form: Narrow) -> Tensor:
    """The slow twin: after each column what is left of a row is the least-squares answer to what was lost."""
    moments = moments.double()
    moments = moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    wanted, made = weight.double(), weight.double().clone()
    scale = torch.empty(len(weight), dtype=torch.float64)
    for column in range(weight.shape[1]):
        if column % form.group == 0:
            ends = range(column, min(column + form.group, weight.shape[1]))
            # What a column loses that those to its right cannot make good of.
            importance = torch.stack([1 / torch.linalg.inv(moments[at:, at:])[0, 0] for at in ends])
            scale = best_scale(made[:, ends.start : ends.stop], importance)
        made[:, column] = (made[:, column] / scale).clamp(-8, 7).round() * scale
        done, left = slice(0, column + 1), slice(column + 1, None)
        lost = (made - wanted)[:, done]
        made[:, left] = (
            wanted[:, left] - torch.linalg.solve(moments[left, left], moments[left, done] @ lost.T).T
        )
    return made


def lost(weight: Tensor, made: Tensor, inputs: Tensor) -> float:
    return float((inputs @ (made - weight).T).square().sum())


@pytest.mark.parametrize("columns", [8, 40, 70])
def test_it_is_what_solving_anew_after_each_column_finds(columns):
    weight, inputs = drawn(columns, 3 * columns)
    form, moments = Narrow("int4", 32), inputs.T @ inputs
    codes, scales = narrowed(weight, moments, form)
    found = dequantize(codes, scales, form, columns)
    assert torch.allclose(found.double(), by_solving(weight, moments, form), atol=1e-9)
    plain = dequantize(*quantize(weight, form), form, columns)
    assert columns < 40 or lost(weight, found, inputs) < 0.7 * lost(weight, plain, inputs)


@pytest.mark.parametrize("group", GROUPS)
def test_without_anything_in_common_it_is_the_search_alone(group):
    weight, _ = drawn(150, 1)
    form = Narrow("int4", group)
    wanted = quantize(weight, form)
    least = lost(weight, dequantize(*wanted, form, 150), torch.eye(150))
    for moments in (3 * torch.eye(150), torch.zeros(150, 150)):  # inputs that are nothing teach nothing
        codes, scales = narrowed(weight, moments, form)
        # That search rounds what it compares; of two scales that are nearly as good it may take the other.
        assert (scales == wanted[1]).float().mean() > 0.9
        assert abs(lost(weight, dequantize(codes, scales, form, 150), torch.eye(150)) - least) < 1e-3 * least


def test_the_scale_that_loses_least_by_importance():
    weight, _ = drawn(64, 1)
    weight[0] = 0
    values, importance = weight.double(), torch.linspace(0.01, 3, 64, dtype=torch.float64)
    every = best_scale(values, torch.ones(64, dtype=torch.float64))

    def loss(scale: Tensor) -> Tensor:
        wholes = torch.where(scale[:, None] == 0, 0.0, values / scale[:, None]).clamp(-8, 7).round()
        return ((wholes * scale[:, None] - values).square() * importance).sum(1)

    found = best_scale(values, importance)
    assert found[0] == 0
    assert (loss(found)[1:] <= loss(every)[1:]).all()
    assert (loss(found)[1:] < 0.97 * loss(every)[1:]).any()


def test_inputs_that_never_come_do_no_harm():
    weight, inputs = drawn(40, 100)
    inputs[:, 7:11] = 0
    form = Narrow("int4", 32)
    made = dequantize(*narrowed(weight, inputs.T @ inputs, form), form, 40)
    assert lost(weight, made, inputs) < lost(weight, dequantize(*quantize(weight, form), form, 40), inputs)
    assert made.isfinite().all()


def inputs_of(name: str) -> list[dict[str, Any]]:
    """Some words, and no picture."""
    drawn = torch.Generator().manual_seed(3)
    return [{"input_ids": torch.randint(3, 60, (1, 20), generator=drawn)} for _ in range(4)]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_holds_what_was_fitted(name, tmp_path):
    source, choice = FOLDERS[name], Choice("int4", 32)
    model = opened(source)
    plain = {name: model.get_submodule(name).weight.clone() for name in narrow_linears(model)}
    made = calibrated(model, inputs_of(name), choice)
    done = convert(source, tmp_path / "made", identify_folder(source), "ours", quantize=choice, fitted=made)
    narrow, differing = opened(done.target), 0
    for linear, is_head in narrow_linears(opened(source)).items():
        form, held = choice.narrow(is_head=is_head), narrow.get_submodule(linear)
        searched = quantize(plain[linear], form)
        wanted = searched if is_head else made[f"{linear}.weight"]
        assert torch.equal(held.codes, wanted[0])
        assert torch.equal(held.scales, wanted[1])
        differing += not torch.equal(searched[0], held.codes)
        stands_for = plain[linear] if is_head else dequantize(*wanted, form, held.in_features)
        assert torch.equal(model.get_submodule(linear).weight, stands_for.to(plain[linear].dtype))
    assert differing > len(made) / 2


def test_moments_that_do_not_fit_into_the_room_are_gathered_in_parts(monkeypatch):
    source, choice = FOLDERS["llava"], Choice("int4", 32)
    whole = calibrated(opened(source), inputs_of("llava"), choice)
    monkeypatch.setattr("beholder.checkpoints.calibrated.ROOM", 1)
    one_by_one = calibrated(opened(source), inputs_of("llava"), choice)
    assert whole.keys() == one_by_one.keys()
    first, *others = whole
    assert all(torch.equal(*pair) for pair in zip(whole[first], one_by_one[first], strict=True))
    # Later ones have seen what those before them have become.
    assert any(not torch.equal(whole[name][0], one_by_one[name][0]) for name in others)


def test_what_is_refused(tmp_path, capsys):
    model = opened(FOLDERS["llava"])
    with pytest.raises(ConfigError, match="calibrated in int4 alone, not in int8"):
        calibrated(model, inputs_of("llava"), Choice("int8"))
    with pytest.raises(ConfigError, match="no samples to calibrate with"):
        calibrated(model, [], Choice("int4"))
    rows = tmp_path / "rows.json"
    rows.write_text("[]")
    told = ["convert", str(MINI), str(tmp_path / "no"), "--to", "ours", "--calibrate", str(rows)]
    for more in ([], ["--quantize", "int8"], ["--quantize", "int4"]):
        assert main([*told, *more]) == 2, more
        assert "calibrat" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_what_was_fitted_otherwise_is_not_written(tmp_path):
    source = FOLDERS["llava"]
    made, family = calibrated(opened(source), inputs_of("llava"), Choice("int4", 32)), identify_folder(source)
    for other, wrong in ((made, "was fitted as"), ({"no.weight": made.popitem()[1]}, "not made narrow: no")):
        with pytest.raises(ConfigError, match=wrong):
            convert(source, tmp_path / "made", family, "ours", quantize=Choice("int4", 64), fitted=other)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_not_calibrated(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("beholder.cli.convert._fitted", lambda *_: pytest.fail("the model is asked in vain"))
    narrow, taken = tmp_path / "narrow", tmp_path / "taken"
    assert main(["convert", str(MINI), str(narrow), "--to", "ours", "--quantize", "int4"]) == 0
    taken.mkdir()
    (taken / "file").touch()
    told = ["--quantize", "int4", "--calibrate", "rows.json"]
    for source, target, to, wrong in (
        (MINI, taken, "ours", "is not an empty folder"),
        (MINI, tmp_path / "no", "published", "in our own layout alone"),
        (narrow, tmp_path / "no", "ours", "convert the dense model"),
    ):
        assert main(["convert", str(source), str(target), "--to", to, *told]) == 2
        assert wrong in capsys.readouterr().err


def test_drawn_rows_fit_the_built_in_model(tmp_path, capsys):
    rows, target = tmp_path / "rows", tmp_path / "made"
    write(rows, Plan(scenes=3, seed=7, split="train", rounds=2), FontBook())
    given = ["--to", "ours", "--quantize", "int4", "--calibrate", str(rows / "conversations.json")]
    assert main(["convert", str(MINI), str(target), *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "ours"
    plain = opened(MINI, quantize="int4")
    assert opened(target).config.quantization_config.to_dict() == plain.config.quantization_config.to_dict()
    moved = [
        name for name, held in opened(target).named_parameters()
        if name.endswith(".codes") and not torch.equal(held, plain.get_parameter(name))
    ]  # fmt: skip
    assert len(moved) == 4 * 7
