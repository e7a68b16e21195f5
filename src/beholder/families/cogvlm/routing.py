"""Which position is whose: experts, rotary positions, and the rows that each expert computes.

All of it follows from `token_type_ids`, where 1 marks the slots of a picture (THUDM/CogVLM,
models/cogvlm_model.py and utils/language.py, 8bd8be9).
Shape letters: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

LANGUAGE, VISION, PADDING = 0, 1, 2


def vision_experts(token_types_BS: Tensor) -> Tensor:
    """(B, S) bool: the vision expert takes a slot that another slot follows.

    So of a picture's slots the last, its end marker, goes to the language expert.
    """
    is_slot = token_types_BS == VISION
    return is_slot & pad(is_slot[:, 1:], (0, 1))


def rotary_positions(token_types_BS: Tensor, attention_mask_BS: Tensor | None = None) -> Tensor:
    """(B, S) positions: all patches of a picture share one, everything else counts on.

    Padding on the left stands at 0 with its row then beginning at 1, as in the original.
    """
    labels = token_types_BS.clamp(LANGUAGE, VISION)
    if attention_mask_BS is not None:
        labels = labels.masked_fill(attention_mask_BS == 0, PADDING)
    is_language = labels == LANGUAGE
    beside = pad(is_language[:, 1:], (0, 1), value=True) | pad(is_language[:, :-1], (1, 0), value=True)
    is_edge = (labels == VISION) & beside  # the two markers of a picture, which count as words
    counts = is_language | is_edge
    is_patch = (labels == VISION) & ~is_edge
    follows_word = pad(counts[:, :-1], (1, 0))
    steps = counts | (is_patch & follows_word)
    return pad(steps[:, 1:], (1, 0)).long().cumsum(1)


@dataclass(frozen=True)
class Routing:
    """The rows of a flattened (B * S) batch that each expert computes, found once per forward."""

    language: Tensor
    vision: Tensor
    back: Tensor  # where each row of the batch is in the language rows followed by the vision rows

    @classmethod
    def of(cls, is_vision_BS: Tensor) -> Routing | None:
        """None where no row is the vision expert's: then nothing is gathered at all."""
        is_vision = is_vision_BS.flatten()
        vision = is_vision.nonzero().squeeze(1)
        if len(vision) == 0:
            return None
        language = is_vision.logical_not().nonzero().squeeze(1)
        order = torch.cat([language, vision])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return cls(language, vision, back)

    def apply(
        self, states: Tensor, language: Callable[[Tensor], Tensor], vision: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """(B, S, width) through the two experts: each computes its own rows and no others."""
        rows = states.flatten(0, 1)
        results = torch.cat([language(rows[self.language]), vision(rows[self.vision])])
        return results[self.back].unflatten(0, states.shape[:2])
