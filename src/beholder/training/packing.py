"""Several samples in one sequence: each sees itself alone, so the loss is that of separate rows.

Padding is spared where lengths differ. The attention mask has a block of its own for each sample, positions
begin anew in each, and the first token of a sample is nobody's next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beholder.processing.labels import IGNORED
from beholder.training.collate import Collator, Sample, padded, pictures_of, rows_of, token_keys


def bins(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which samples share a sequence: the longest first, each into the first place that has room."""
    places: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        at = next((at for at, free in enumerate(room) if free >= lengths[number]), None)
        if at is None:
            places.append([])
            room.append(width)
            at = len(room) - 1
        places[at].append(number)
        room[at] -= lengths[number]
    return places


@dataclass(frozen=True)
class PackingCollator:
    """Batches of packed sequences of at most `max_length` positions, as few as they fit in.

    `layout` gives position ids (and whatever else follows from its tokens) of one sample where the model
    does not just count; `as_bias` writes the mask as numbers to add, which eager attention needs.
    """

    rows: Collator
    layout: Callable[..., Any] | None = None
    as_bias: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        fitting = self.rows.complete(samples)
        lengths = [len(sample["input_ids"]) for sample in fitting]
        room = max(max(lengths), min(sum(lengths), self.rows.max_length or sum(lengths)))
        numbers = bins(lengths, room)
        fullest = max(sum(lengths[number] for number in place) for place in numbers)
        width = -(-fullest // self.rows.multiple) * self.rows.multiple
        places = [[fitting[number] for number in place] for place in numbers]
        keys = token_keys(fitting)
        written = [[self.laid_out(sample, keys) for sample in place] for place in places]
        fills = dict.fromkeys(written[0][0], 0) | {"input_ids": self.rows.padding_id, "labels": IGNORED}
        batch = {
            key: torch.stack([padded(torch.cat([one[key] for one in row]), width, fill) for row in written])
            for key, fill in fills.items()
        }
        if "vision_expert_mask" in batch:
            batch["vision_expert_mask"] = batch["vision_expert_mask"].bool()
        batch["attention_mask"] = self.mask(
            [[len(one["input_ids"]) for one in row] for row in written], width
        )
        order = [sample for place in places for sample in place]
        return batch | pictures_of(order) | rows_of(order)

    def laid_out(self, sample: Sample, keys: Sequence[str]) -> dict[str, Tensor]:
        """One sample's tensors of a number per position."""
        ids = torch.as_tensor(sample["input_ids"], dtype=torch.long)
        labels = torch.as_tensor(sample["labels"], dtype=torch.long).clone()
        labels[0] = IGNORED
        found = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(len(ids))}
        extra = {key: torch.as_tensor(sample[key], dtype=torch.long) for key in keys}
        if self.layout is not None:
            _, told = self.layout(ids[None], **{key: value[None] for key, value in extra.items()})
            found |= {key: value[0] for key, value in told.items()}
            if "token_type_ids" in extra:
                found.setdefault("vision_expert_mask", torch.zeros_like(ids))
        return found | extra

    def mask(self, lengths: Sequence[Sequence[int]], width: int) -> Tensor:
        """(rows, 1, width, width): who sees whom; what fills a row up sees its own kind."""
        sample = torch.full((len(lengths), width), -1)
        for row, places in enumerate(lengths):
            end = 0
            for number, length in enumerate(places):
                sample[row, end : end + length] = number
                end += length
        same = (sample[:, :, None] == sample[:, None, :]) & torch.ones(width, width).tril().bool()
        if not self.as_bias:
            return same[:, None]
        return torch.zeros(same.shape).masked_fill(~same, torch.finfo(torch.float32).min)[:, None]
