"""A run tells how it goes: it stops with the rows of a loss that is no number, plots, and answers samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.equality.training_cases import checkpoint, recipe, write_rows

from beholder.core.errors import ConfigError, InputError
from beholder.training.journal import draw_losses
from beholder.training.resuming import SPREAD, refuse_another_spreading
from beholder.training.run import open_start, run
from beholder.training.settings import reporters, zero
from beholder.training.trainer import train


def test_a_loss_that_is_no_number_names_its_rows(tmp_path: Path, llama3_tokenizer: Any) -> None:
    folder = checkpoint("llava", tmp_path, llama3_tokenizer)
    write_rows(tmp_path)
    stage = recipe("llava", folder, tmp_path / "out", global_batch=2, device_batch=2)
    model, processor = open_start(stage)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"the loss is nan at step 1, in a batch of rows row \d, row \d"):
        train(stage, model, processor)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_gone_is_one_sentence(tmp_path: Path, llama3_tokenizer: Any, workers: int) -> None:
    folder = checkpoint("llava", tmp_path, llama3_tokenizer)
    write_rows(tmp_path)
    (tmp_path / "3.png").unlink()
    stage = recipe("llava", folder, tmp_path / "out", workers=workers)
    with pytest.raises(InputError) as told:
        run(stage)
    assert str(told.value) == f"row row 3: no such file: {tmp_path / '3.png'}"


def test_samples_log_and_plot(tmp_path: Path, llama3_tokenizer: Any) -> None:
    folder = checkpoint("cogvlm", tmp_path, llama3_tokenizer)
    write_rows(tmp_path)
    stage = recipe("cogvlm", folder, tmp_path / "out", sample_every=1, samples=1)
    run(stage)
    (events,) = stage.output.rglob("events.out.tfevents.*")  # TensorBoard's, whatever report_to says
    assert b"train/loss" in events.read_bytes()
    told = [json.loads(line) for line in (stage.output / "samples.jsonl").read_text().splitlines()]
    assert [one["step"] for one in told] == [1, 2]
    assert told[0]["row"] == "row 0"
    assert told[0]["wanted"] == "A square."
    records = [json.loads(line) for line in (stage.output / "log.jsonl").read_text().splitlines()]
    assert all(record["tokens_per_second"] > 0 and record["memory_gib"] > 0 for record in records)
    assert (stage.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert draw_losses(tmp_path) is None


def test_reporters_are_asked_for_beside_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = recipe("llava", tmp_path, tmp_path, report_to=("wandb",))
    with pytest.raises(ConfigError, match="report_to asks for wandb, which is not installed"):
        reporters(stage)
    monkeypatch.setattr("beholder.training.settings.find_spec", lambda name: name)
    assert reporters(stage) == ["tensorboard", "wandb"]


def test_zero_is_llavas_configuration(tmp_path: Path) -> None:
    told = zero(recipe("llava", tmp_path, tmp_path, sharding="zero3", max_grad_norm=0))
    assert told["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert "gradient_clipping" not in told  # as published: nothing is clipped
    assert zero(recipe("llava", tmp_path, tmp_path, sharding="zero2"))["gradient_clipping"] == 1.0


def test_what_fsdp2_leaves_is_opened_by_fsdp2_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = recipe("llava", tmp_path, tmp_path)
    refuse_another_spreading(tmp_path, stage)
    spread = stage.model_copy(update={"sharding": "fsdp2"})
    refuse_another_spreading(tmp_path, spread)  # of one process nothing is spread
    (tmp_path / SPREAD).touch()
    with pytest.raises(ConfigError, match=r"by several processes with sharding=fsdp2 .* here 1 have"):
        refuse_another_spreading(tmp_path, spread)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuse_another_spreading(tmp_path, spread)
    (tmp_path / SPREAD).unlink()
    with pytest.raises(ConfigError, match="written without FSDP2, so 2 processes"):
        refuse_another_spreading(tmp_path, spread)


def test_a_recipe_of_another_time_goes_on(tmp_path: Path, llama3_tokenizer: Any) -> None:
    """A run that began before a setting existed has its default."""
    folder = checkpoint("cogvlm", tmp_path, llama3_tokenizer)
    write_rows(tmp_path)
    stage = recipe("cogvlm", folder, tmp_path / "out", save_every=1)
    run(stage)
    noted = json.loads((stage.output / "recipe.json").read_text())
    for key in ("packing", "beta1", "grouping", "too_long"):
        del noted[key]
    (stage.output / "recipe.json").write_text(json.dumps(noted))
    run(stage)
    noted["learning_rate"] = 1.0
    (stage.output / "recipe.json").write_text(json.dumps(noted))
    with pytest.raises(ConfigError, match="learning_rate was 1"):
        run(stage)
