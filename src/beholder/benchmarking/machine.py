"""Figures of the machine beside a model's: how fast its memory is, how much of it a process holds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

PROBE_NUMBERS = 2**25  # 128 MiB of each of three tensors: no cache holds them
PROBE_REPEATS = 5


def memory_rate(device: torch.device) -> float:
    """GB/s of `a + b -> c` over tensors that no cache holds, the best of a few: what PyTorch gets at all."""
    first, second, out = (torch.ones(PROBE_NUMBERS, device=device) for _ in range(3))
    best = float("inf")
    for _ in range(PROBE_REPEATS + 1):
        _wait(device)
        begun = time.perf_counter()
        torch.add(first, second, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return 3 * first.nbytes / best / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held_bytes() -> int | None:
    """Memory that this process holds; None where the system does not tell."""
    table = Path("/proc/self/statm")
    if not table.exists():
        return None
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
