"""Samples of unequal length become one batch: right padding, no padded position is trained or attended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from beholder.core.errors import InputError
from beholder.processing.labels import IGNORED


@dataclass(frozen=True)
class Collator:
    """Pad to the longest sample, rounded up to a multiple so that compiled shapes repeat.

    `max_length` is a limit, not a cut: a longer sample is an error, because cutting may drop a picture.
    """

    padding_id: int
    multiple: int = 1
    max_length: int | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(sample["input_ids"]) for sample in samples]
        longest = max(lengths)
        if self.max_length is not None and longest > self.max_length:
            raise InputError(
                f"a sample has {longest} tokens and max_length is {self.max_length}; raise it or drop the row"
            )
        width = -(-longest // self.multiple) * self.multiple
        input_ids = torch.full((len(samples), width), self.padding_id, dtype=torch.long)
        labels = torch.full((len(samples), width), IGNORED, dtype=torch.long)
        attention_mask = torch.zeros((len(samples), width), dtype=torch.long)
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            input_ids[row, :length] = torch.as_tensor(sample["input_ids"])
            labels[row, :length] = torch.as_tensor(sample["labels"])
            attention_mask[row, :length] = 1
        batch = {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}
        pictures = [sample["pixel_values"] for sample in samples if sample.get("pixel_values") is not None]
        if pictures:
            batch["pixel_values"] = torch.cat([torch.as_tensor(views) for views in pictures])
        return batch
