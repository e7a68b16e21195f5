"""The order of training samples: batches of similar length, all with pictures or all without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

POOL = (
    16  # global batches that are sorted together: enough for even lengths, little enough for a random order
)


class LengthGroupedSampler(Sampler[int]):
    """All samples once per epoch; neighbours in a batch have similar length and the same modality.

    `lengths` are positive for samples with pictures and negative for text-only ones, as in LLaVA's
    group_by_modality_length. The order depends on the seed and the epoch alone.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches, rest = [], []
        for has_pictures in (True, False):
            indices = [i for i, length in enumerate(self.lengths) if (length > 0) == has_pictures]
            shuffled = [indices[i] for i in torch.randperm(len(indices), generator=chance).tolist()]
            for start in range(0, len(shuffled), POOL * self.batch):
                pool = sorted(shuffled[start : start + POOL * self.batch], key=lambda i: abs(self.lengths[i]))
                cut = [pool[i : i + self.batch] for i in range(0, len(pool), self.batch)]
                batches += [group for group in cut if len(group) == self.batch]
                rest += [i for group in cut if len(group) < self.batch for i in group]
        for i in torch.randperm(len(batches), generator=chance).tolist():
            yield from batches[i]
        yield from rest  # what fills no whole batch comes last
