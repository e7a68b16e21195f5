"""Rotary positions: the tables exact, or rounded as the published model was trained and served.

Follows sat/model/position_embedding/rotary_embeddings.py (THUDM/SwissArmyTransformer 0.4.11).
Shape letters: B batch, S sequence, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_frequencies(
    head_dim: int, base: float, tables: str, device: torch.device | None = None
) -> Tensor:
    """(D/2,) angles per position: float32, or bfloat16 for the rounded tables."""
    if tables == "bfloat16_hf":  # where the default number format was bfloat16 while the model was made
        steps = torch.arange(0, head_dim, 2, device=device).to(torch.bfloat16)
        return 1.0 / base ** (steps / head_dim)
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    return frequencies.to(torch.bfloat16) if tables == "bfloat16_sat" else frequencies


def rotary_tables(position_ids: Tensor, head_dim: int, base: float, tables: str) -> tuple[Tensor, Tensor]:
    """(B, S) positions -> cosines and sines (B, S, D), the second half equal to the first.

    In the rounded tables position and angle are bfloat16 as well, so beyond 256 positions fall together.
    """
    frequencies = inverse_frequencies(head_dim, base, tables, position_ids.device)
    with torch.autocast(position_ids.device.type, enabled=False):
        angles = position_ids[..., None].to(frequencies.dtype) * frequencies
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """(B, heads, S, D) queries or keys turned by their positions; element j pairs with j + D/2."""
    first, second = states.chunk(2, dim=-1)
    return states * cosines + torch.cat([-second, first], dim=-1) * sines
