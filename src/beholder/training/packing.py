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
from beholder.training.sharing import Bundle, bundles

ROOMS = 16  # widths that are tried


def arranged(lengths: Sequence[int], most: int, hidden: int = 0) -> list[list[int]]:
    """Which of `lengths` share a sequence, in the width of at most `most` that costs least.

    A position costs its layers' matrices and, in attention, every position of its sequence: as much again
    where the sequence is three times as wide as the model is, `hidden` (measured on a CPU; 0 leaves
    attention out). Of equals the narrowest is taken.
    """
    least = max(lengths)
    step = max(1, (most - least) // ROOMS)
    tried = [bins(lengths, room) for room in sorted({*range(least, most, step), max(least, most)})]

    def cost(places: list[list[int]]) -> int:
        width = fullest(places, lengths)
        return len(places) * width * (3 * hidden + width if hidden else 1)

    return min(tried, key=cost)


def fullest(places: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """The width of the sequence that holds most."""
    return max(sum(lengths[number] for number in place) for place in places)


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
    does not just count; `as_bias` writes the mask as numbers to add, which eager attention needs. With
    `share_pictures`, samples about the same picture hold it once. `hidden` is the width of the model.
    """

    rows: Collator
    layout: Callable[..., Any] | None = None
    as_bias: bool = False
    share_pictures: bool = False
    hidden: int = 0

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        fitting = self.rows.complete(samples)
        units = [Bundle((sample,)) for sample in fitting]
        if self.share_pictures:
            units = bundles(fitting, self.rows.picture_end, self.rows.max_length)
        lengths = [unit.length for unit in units]
        most = min(sum(lengths), self.rows.max_length or sum(lengths))
        numbers = arranged(lengths, most, self.hidden)
        width = -(-fullest(numbers, lengths) // self.rows.multiple) * self.rows.multiple
        places = [[units[number] for number in place] for place in numbers]
        keys = token_keys(fitting)
        written = [[part for unit in place for part in self.parts(unit, keys)] for place in places]
        fills = dict.fromkeys(written[0][0], 0) | {"input_ids": self.rows.padding_id, "labels": IGNORED}
        batch = {
            key: torch.stack([padded(torch.cat([one[key] for one in row]), width, fill) for row in written])
            for key, fill in fills.items()
        }
        if "vision_expert_mask" in batch:
            batch["vision_expert_mask"] = batch["vision_expert_mask"].bool()
        batch["attention_mask"] = self.mask([[unit.parts() for unit in place] for place in places], width)
        order = [unit for place in places for unit in place]
        shown = pictures_of([unit.samples[0] for unit in order])
        return batch | shown | rows_of([sample for unit in order for sample in unit.samples])

    def parts(self, unit: Bundle, keys: Sequence[str]) -> list[dict[str, Tensor]]:
        """The tensors of a bundle's parts: what is shared, then what is each sample's own."""
        written = [self.laid_out(sample, keys) for sample in unit.samples]
        if not unit.shared:
            return written
        beginning = {key: values[: unit.shared] for key, values in written[0].items()}
        return [beginning, *({key: v[unit.shared :] for key, v in one.items()} for one in written)]

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

    def mask(self, lengths: Sequence[Sequence[Sequence[int]]], width: int) -> Tensor:
        """(rows, 1, width, width): who sees whom; what fills a row up sees its own kind.

        `lengths` of the parts of each row's bundles: a part sees itself and the first of its bundle.
        """
        bundle = torch.full((len(lengths), width), -1)
        part = torch.zeros_like(bundle)
        for row, units in enumerate(lengths):
            end = 0
            for unit, parts in enumerate(units):
                for number, length in enumerate(parts):
                    bundle[row, end : end + length] = unit
                    part[row, end : end + length] = number
                    end += length
        alike = bundle[:, :, None] == bundle[:, None, :]
        seen = (part[:, None, :] == 0) | (part[:, :, None] == part[:, None, :])
        same = alike & seen & torch.ones(width, width).tril().bool()
        if not self.as_bias:
            return same[:, None]
        return torch.zeros(same.shape).masked_fill(~same, torch.finfo(torch.float32).min)[:, None]
