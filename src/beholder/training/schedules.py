"""Learning rates over the steps of a run that transformers does not have."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

PLATEAU_STEPS = 100
PLATEAU = 0.05
FLOOR = 0.1


def plateau_cosine(step: int, steps: int, warmup_ratio: float) -> float:
    """What the rate is multiplied by at a step counted from 0.

    CogVLM's fine-tuning: a hundred steps at a twentieth (or below, while warming up), then a cosine to a
    tenth that counts from the end of the warm-up (AnnealingLR, SwissArmyTransformer 0.4.11).
    """
    number, warmup = step + 1, warmup_ratio * steps
    if number <= PLATEAU_STEPS:
        return min(PLATEAU, number / warmup) if warmup else PLATEAU
    passed = min(1.0, (number - warmup) / steps)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * passed)) / 2


def plateau_cosine_schedule(optimizer: torch.optim.Optimizer, steps: int, warmup_ratio: float) -> LambdaLR:
    """A scheduler of it for all parameter groups."""
    return LambdaLR(optimizer, lambda step: plateau_cosine(step, steps, warmup_ratio))
