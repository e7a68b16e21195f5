"""Devices and number formats: a plain rule, or what the caller says, or an error that lists what there is."""

from __future__ import annotations

import pytest
import torch

from beholder.core.device import resolve_device, resolve_dtype
from beholder.core.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int, bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", [None, "auto"])
def test_the_first_gpu_or_the_cpu(monkeypatch: pytest.MonkeyPatch, name):
    pretend_gpus(monkeypatch, 2)
    assert resolve_device(name) == GPU
    pretend_gpus(monkeypatch, 0)
    assert resolve_device(name) == CPU


def test_by_name(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, 2)
    assert resolve_device("cuda") == GPU
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device(torch.device("cpu")) == CPU
    with pytest.raises(ConfigError, match="'cuda:2' is not here; available: cuda:0, cuda:1, cpu"):
        resolve_device("cuda:2")


def test_no_gpu(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, 0)
    with pytest.raises(ConfigError, match="'cuda' is not here; available: cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (None, torch.float32),
    ],
)
def test_the_cpu_keeps_what_is_stored_but_float16(stored, wanted):
    assert resolve_dtype(None, CPU, stored) == wanted
    assert resolve_dtype("auto", CPU, stored) == wanted


def test_a_gpu_computes_in_bfloat16_if_it_can(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, 1)
    assert resolve_dtype(None, GPU, torch.float32) == torch.bfloat16
    pretend_gpus(monkeypatch, 1, bf16=False)
    assert resolve_dtype(None, GPU, torch.float32) == torch.float16


def test_what_the_caller_says_wins():
    assert resolve_dtype("fp16", CPU, torch.float32) == torch.float16
    assert resolve_dtype("bfloat16", CPU) == torch.bfloat16
    assert resolve_dtype(torch.float64, CPU) == torch.float64
    with pytest.raises(ConfigError, match="dtype 'int8' is unknown; use auto, float32"):
        resolve_dtype("int8", CPU)
