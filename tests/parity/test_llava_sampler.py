"""The order of training rows is the published one, index by index, in both of its versions."""

from __future__ import annotations

import pytest
import torch
from tests.parity.golden_llava import told

from beholder.core.errors import InputError
from beholder.training.sampler import ModalityLengthSampler, by_length, even_chunks, modality_order

RULES = ("llava", "internvl")


def cases(rule: str, kind: str) -> list[dict]:
    found = [case for case in told(f"sampler/{rule}.json")["cases"] if case["kind"] == kind]
    assert found
    return found


def between(case: dict) -> torch.Generator | None:
    seed = case["generator_seed"]
    return None if seed is None else torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rule", RULES)
def test_order_by_modality_and_length(rule):
    for case in cases(rule, "modality"):
        arguments = (case["lengths"], case["per_device_batch"], case["effective_world_size_passed"], rule)
        torch.manual_seed(case["global_torch_seed"])
        if case.get("error"):
            with pytest.raises(InputError, match="grouping internvl needs"):
                modality_order(*arguments, between=between(case))
        else:
            assert modality_order(*arguments, between=between(case)) == case["order"]


@pytest.mark.parametrize("rule", RULES)
def test_order_by_length_alone(rule):
    for case in cases(rule, "length_only"):
        torch.manual_seed(case["global_torch_seed"])
        groups = by_length(
            case["lengths"], case["per_device_batch"], case["effective_world_size_passed"], between(case)
        )
        assert [i for group in groups for i in group] == case["order"]


@pytest.mark.parametrize("rule", RULES)
def test_chunks(rule):
    for case in told(f"sampler/{rule}.json")["split_to_even_chunks"]:
        assert even_chunks(case["indices"], case["lengths"], case["num_chunks"]) == case["chunks"]


def test_an_epoch_has_every_row_once_and_its_own_order():
    lengths = [*range(1, 40), *range(-20, 0)]
    sampler = ModalityLengthSampler(lengths, 2, 2, "llava", seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(len(lengths)))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
