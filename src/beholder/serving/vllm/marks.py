"""What vLLM must know of a prompt's rows beside their embeddings, carried in further columns of these.

A prompt reaches vLLM as embeddings and nothing else. A model with visual experts needs two more things of
each row: whose expert takes it, and its rotary position, which patches of a picture share. Rotary positions
count only by their differences. So those of the prompt are moved until the answer's are plain places, and
what is left is a number of places, from 0 up, by which a row of the prompt stands later than where it is.
Columns after the embedding: 1 for the vision expert, then the shift, as digits to a base that every number
format holds exactly. Rows of the answer have zeros there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from beholder.generation.prompt import Prompt

MARKS = 3
BASE = 128
EXPERT_MASK = "vision_expert_mask"


def marked_width(width: int, heads: int) -> int:
    """How wide a row with its marks is: configurations want a multiple of the heads."""
    return width + heads * -(-MARKS // heads)


def with_marks(embeddings: Tensor, prompt: Prompt, heads: int) -> Tensor:
    """(length, width) of a whole prompt -> (length, marked width)."""
    length, width = embeddings.shape
    rows = embeddings.new_zeros((length, marked_width(width, heads)))
    rows[:, :width] = embeddings
    if (mask := prompt.per_token.get(EXPERT_MASK)) is not None:
        rows[:, width] = mask[0].to(rows)
    ahead = prompt.position(length) - length
    shifts = torch.tensor([prompt.position(place) - place - ahead for place in range(length)])
    rows[:, width + 1] = (shifts // BASE).to(rows)
    rows[:, width + 2] = (shifts % BASE).to(rows)
    return rows


def without_marks(rows: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, marked width) -> embeddings, which rows are the vision expert's, and their shifts (int64)."""
    is_vision = rows[:, width] > 0.5
    digits = rows[:, width + 1 : width + MARKS].to(torch.int64)
    return rows[:, :width], is_vision, digits[:, 0] * BASE + digits[:, 1]
