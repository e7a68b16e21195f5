"""Pickled weight files of every age are tensors and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from beholder.checkpoints.assembled import Files
from beholder.checkpoints.pickles import tensors_in
from beholder.checkpoints.reader import read_contents
from beholder.core.errors import CheckpointError

HELD = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1/0",))


def write(path: Path, held: object, *, is_old: bool) -> None:
    torch.save(held, path, _use_new_zipfile_serialization=not is_old)


@pytest.mark.parametrize("is_old", [True, False])
def test_files_of_every_age(tmp_path, is_old):
    """Before torch 1.6 a file was no archive, and cannot be mapped."""
    write(tmp_path / "pytorch_model.bin", HELD, is_old=is_old)
    contents = read_contents(tmp_path)
    shapes = {name: (header.shape, header.dtype) for name, header in contents.tensors.items()}
    assert shapes == {"a": ((2, 3), "F32"), "b": ((4,), "BF16")}
    for name, tensor in HELD.items():
        assert torch.equal(Files(contents).read(contents.tensors[name], name), tensor)


@pytest.mark.parametrize("is_old", [True, False])
def test_code_is_named_and_not_run(tmp_path, is_old):
    write(tmp_path / "x.bin", {"a": Trap()}, is_old=is_old)
    with pytest.raises(CheckpointError, match=r"more than tensors \(\S*eval\), .* nothing of it") as error:
        tensors_in(tmp_path / "x.bin")
    assert "\x1b" not in str(error.value)
    assert "trust" not in str(error.value)


def test_a_bare_pickle(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        tensors_in(tmp_path / "x.bin")


def test_the_state_of_a_training_says_where_its_tensors_are(tmp_path):
    write(tmp_path / "x.bin", {"epoch": 3, "state_dict": HELD}, is_old=False)
    with pytest.raises(CheckpointError, match="its tensors are in 'state_dict'"):
        tensors_in(tmp_path / "x.bin")


def test_a_pointer(tmp_path):
    (tmp_path / "x.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        tensors_in(tmp_path / "x.bin")
