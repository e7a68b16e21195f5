"""A checkpoint opens only if it fits its model exactly; otherwise one sentence says where it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.checkpoints.accounting import account
from beholder.checkpoints.loader import open_model, stored_dtype
from beholder.checkpoints.planning import plan
from beholder.checkpoints.reader import read_contents
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families import family, identify_folder

FAMILY = family("qh360vl")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("whole"), llama3_tokenizer)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change(folder: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_every_number_arrives(whole: Path):
    model = open_model(whole, FAMILY, device="cpu")
    stored = load_file(whole / "model.safetensors")
    names = FAMILY.key_table(model.config)
    opened = {names.theirs(name): tensor for name, tensor in model.state_dict().items()}
    assert opened.keys() == stored.keys()
    assert all(torch.equal(opened[name], stored[name]) for name in stored)
    assert not model.training
    assert next(model.parameters()).device.type == "cpu"


def test_the_dtype_follows_storage_or_the_caller(folder: Path):
    assert open_model(folder, FAMILY).dtype == torch.float32
    assert open_model(folder, FAMILY, dtype="bf16").dtype == torch.bfloat16
    change(folder, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    assert stored_dtype(read_contents(folder)) == torch.float16
    assert open_model(folder, FAMILY).dtype == torch.bfloat16  # a CPU has no fast float16


def test_the_name_of_the_folder_says_nothing(whole: Path, tmp_path: Path):
    renamed = shutil.copytree(whole, tmp_path / "llava-v1.5-7b")
    assert identify_folder(Path(renamed)).name == "qh360vl"


def test_missing_tensors(folder: Path):
    change(folder, lambda tensors: [tensors.pop(name) for name in ("lm_head.weight", "model.norm.weight")])
    with pytest.raises(CheckpointError, match=r"2 missing: lm_head\.weight; model\.norm\.weight$"):
        open_model(folder, FAMILY)


def test_a_shape_that_differs(folder: Path):
    change(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(
        CheckpointError, match=r"1 of another shape: model\.norm\.weight is \[31\] and must be \[32\]"
    ):
        open_model(folder, FAMILY)


def test_unknown_tensors(folder: Path):
    change(folder, lambda tensors: tensors.update({"model.extra.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"1 unknown: model\.extra\.weight"):
        open_model(folder, FAMILY)


def test_our_name_in_a_published_file(folder: Path):
    """It would fill a parameter that the published name fills already."""
    change(folder, lambda tensors: tensors.update({"model.language_model.norm.weight": torch.ones(32)}))
    with pytest.raises(CheckpointError, match=r"1 unknown: model\.language_model\.norm\.weight"):
        open_model(folder, FAMILY)


def test_what_is_dropped_on_purpose_is_no_problem(folder: Path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(folder, lambda tensors: tensors.update({name: torch.ones(8)}))
    found = account(read_contents(folder), plan(folder, FAMILY))
    assert found.holds
    assert found.dropped == (name,)
    open_model(folder, FAMILY)


def test_a_truncated_file(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is truncated"):
        open_model(folder, FAMILY)


def test_a_config_of_nobody(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nobody-3"}))
    with pytest.raises(ConfigError, match=r"'nobody-3'.*QH_360VL"):
        identify_folder(folder)


def test_a_folder_without_config(folder: Path):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        identify_folder(folder)


def test_a_tower_left_out_comes_from_the_base(folder: Path):
    """All of it or none: a part of a tower is a damaged checkpoint."""
    tower = "model.vision_tower.vision_tower."

    def leave_out(tensors: Tensors, keep: int) -> None:
        for name in sorted(name for name in tensors if name.startswith(tower))[keep:]:
            tensors.pop(name)

    change(folder, lambda tensors: leave_out(tensors, 1))
    found = account(read_contents(folder), plan(folder, FAMILY))
    assert not found.holds
    assert found.elsewhere == ()
    change(folder, lambda tensors: leave_out(tensors, 0))
    found = account(read_contents(folder), plan(folder, FAMILY))
    assert found.holds
    assert all(name.startswith(tower) for name in found.elsewhere)
    assert len(found.elsewhere) > 10
    with pytest.raises(CheckpointError, match=r"holds no vision tower and its config\.json names none"):
        open_model(folder, FAMILY)


def test_tied_weights_need_no_tensor(tmp_path: Path, llama3_tokenizer):
    folder = make_tiny_checkpoint(tmp_path, llama3_tokenizer, tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    change(folder, lambda tensors: tensors.pop("lm_head.weight"))
    model = open_model(folder, FAMILY)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_check_reads_no_weight(folder: Path):
    """Garbage behind the header changes nothing as long as the length is right."""
    path = folder / "model.safetensors"
    contents = read_contents(folder)
    begin = min(tensor.begin for tensor in contents.tensors.values())
    path.write_bytes(path.read_bytes()[:begin] + b"\xff" * (path.stat().st_size - begin))
    assert account(read_contents(folder), plan(folder, FAMILY)).holds
