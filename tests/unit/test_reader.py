"""Headers and indexes are read without weights, and damage is found there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from beholder.checkpoints.reader import INDEX, read_config, read_contents, tensor_names
from beholder.checkpoints.shards import TensorHeader, read_shard
from beholder.core.errors import CheckpointError

ONE = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
TWO = {"c": torch.zeros((), dtype=torch.int64)}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(ONE, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file(ONE, tmp_path / "one.safetensors")
    save_file(TWO, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    return tmp_path


def write_index(folder: Path, placed: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_headers_tell_shapes_and_places(single: Path):
    contents = read_contents(single)
    assert {name: (tensor.shape, tensor.dtype, tensor.size) for name, tensor in contents.tensors.items()} == {
        "a": ((2, 3), "F32", 6),
        "b": ((4,), "BF16", 4),
    }
    a = contents.tensors["a"]
    assert (single / a.file).read_bytes()[a.begin : a.end] == ONE["a"].numpy().tobytes()
    assert read_shard(single / "model.safetensors").metadata == {"format": "pt"}


def test_shards_make_one_list(sharded: Path):
    contents = read_contents(sharded)
    assert contents.files == ("one.safetensors", "two.safetensors")
    assert {name: tensor.file for name, tensor in contents.tensors.items()} == {
        "a": "one.safetensors",
        "b": "one.safetensors",
        "c": "two.safetensors",
    }
    assert contents.tensors["c"].size == 1


def test_pickled_weights_are_listed_without_reading_them(tmp_path: Path):
    torch.save(ONE | {"step": 3}, tmp_path / "pytorch_model.bin")
    assert read_contents(tmp_path).tensors == {
        "a": TensorHeader((2, 3), "F32", "pytorch_model.bin", 0, 24),
        "b": TensorHeader((4,), "BF16", "pytorch_model.bin", 0, 8),
    }


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, ("1/0",))

    torch.save({"a": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_contents(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_file_is_named(single: Path, keep: int):
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        read_contents(single)


def test_the_two_sizes_are_told(single: Path):
    path = single / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=f"must have {size} bytes and has {size - 10}"):
        read_contents(single)


def test_what_follows_the_end_is_damage(single: Path):
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_contents(single)


def test_a_broken_header_is_damage(single: Path):
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype"', b'"dtypo"', 1))
    with pytest.raises(CheckpointError, match="its header cannot be read"):
        read_contents(single)


def test_a_pointer_file_is_told(tmp_path: Path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="run `git lfs pull`"):
        read_contents(tmp_path)


def test_a_missing_shard_is_named(sharded: Path):
    (sharded / "two.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of the 2 weight files its index lists: two\.safetensors"
    ):
        read_contents(sharded)


@pytest.mark.parametrize(
    ("placed", "sentence"),
    [
        (
            {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"},
            "not in the file .* names: b",
        ),
        ({"a": "one.safetensors", "b": "one.safetensors", "d": "two.safetensors"}, "names: d"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "1 stored tensors are not in .*: b"),
    ],
)
def test_index_and_shards_must_agree(sharded: Path, placed, sentence):
    write_index(sharded, placed)
    with pytest.raises(CheckpointError, match=sentence):
        read_contents(sharded)


def test_a_tensor_stored_twice_is_named(sharded: Path):
    save_file(TWO | {"a": torch.ones(2)}, sharded / "two.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors are stored twice: a"):
        read_contents(sharded)


def test_two_ways_to_read_a_folder_are_refused(sharded: Path):
    save_file(ONE, sharded / "model.safetensors")
    with pytest.raises(CheckpointError, match="has both"):
        read_contents(sharded)


def test_files_without_an_index_are_refused(tmp_path: Path):
    save_file(ONE, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"has other\.safetensors but neither"):
        read_contents(tmp_path)


def test_no_weights(tmp_path: Path):
    with pytest.raises(CheckpointError, match="but no weights"):
        read_contents(tmp_path)


def test_an_index_that_is_none(tmp_path: Path):
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(CheckpointError, match="is not a weight index"):
        read_contents(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"), [(None, "has no config.json"), ("{", "not valid JSON"), ("[1]", "holds a list")]
)
def test_config_json(tmp_path: Path, text, sentence):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        read_config(tmp_path)


def test_names_alone(sharded: Path):
    assert set(tensor_names(sharded)) == {"a", "b", "c"}
    (sharded / "two.safetensors").unlink()
    assert set(tensor_names(sharded)) == {"a", "b", "c"}
    (sharded / INDEX).unlink()
    assert tensor_names(sharded) == ()
