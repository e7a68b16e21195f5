"""Tensors on disk instead of in memory: the same numbers, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from beholder.checkpoints.scratch import Scratch


def test_numbers_of_every_kind_are_kept(tmp_path):
    torch.manual_seed(0)
    given = [
        torch.randn(3, 5),
        torch.randn(4, 6, dtype=torch.bfloat16).T,
        torch.arange(7),
        torch.tensor(2.5, dtype=torch.float16),
        torch.zeros(0, 3),
        torch.randn(8, 2)[::2],
    ]
    with Scratch(tmp_path) as scratch:
        held = [scratch.hold(tensor) for tensor in given]
        assert len(list(tmp_path.rglob("*"))) == 6  # the folder, and a file of each but the empty one
        for kept, tensor in zip(held, given, strict=True):
            assert kept.dtype == tensor.dtype
            assert torch.equal(kept, tensor)
    assert not list(tmp_path.iterdir())
    assert torch.equal(held[0], given[0])  # what is still in use is still there


def test_nothing_is_left_where_it_fails(tmp_path):
    def fails() -> None:
        with Scratch(tmp_path) as scratch:
            scratch.hold(torch.ones(3))
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fails()
    assert not list(tmp_path.iterdir())


def test_what_is_held_does_not_follow_the_original(tmp_path):
    with Scratch(tmp_path) as scratch:
        tensor = torch.ones(3)
        held = scratch.hold(tensor)
        tensor.zero_()
        assert held.tolist() == [1, 1, 1]
