"""The order of training samples: batches of similar length, all with pictures or all without."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Literal

import torch
from torch.utils.data import Sampler

from beholder.core.errors import InputError

POOL = (
    16  # global batches that are sorted together: enough for even lengths, little enough for a random order
)


class EpochSampler(Sampler[int]):
    """All samples once per epoch, in an order of the seed and the epoch alone."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def chance(self) -> torch.Generator:
        """The random numbers of this epoch."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)


class LengthGroupedSampler(EpochSampler):
    """All samples once per epoch; neighbours in a batch have similar length and the same modality.

    `lengths` are positive for samples with pictures and negative for text-only ones, as in LLaVA's
    group_by_modality_length. The order depends on the seed and the epoch alone.
    """

    def __iter__(self) -> Iterator[int]:
        chance = self.chance()
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


class PictureGroupedSampler(EpochSampler):
    """All samples once per epoch; those about the same picture follow each other, in an order of chance.

    `pictures` names what each sample shows; samples of nothing stand for themselves.
    """

    def __init__(self, pictures: Sequence[tuple[str, ...]], batch: int, seed: int) -> None:
        super().__init__(range(len(pictures)), batch, seed)
        groups: dict[Hashable, list[int]] = {}
        for number, shown in enumerate(pictures):
            groups.setdefault(shown or number, []).append(number)
        self.groups = list(groups.values())

    def __iter__(self) -> Iterator[int]:
        chance = self.chance()
        for group in torch.randperm(len(self.groups), generator=chance).tolist():
            together = self.groups[group]
            yield from (together[i] for i in torch.randperm(len(together), generator=chance).tolist())


def even_chunks(indices: Sequence[int], lengths: Sequence[int], chunks: int) -> list[list[int]]:
    """Cut `indices` into as many chunks of one size and about one total length; in order where that fails.

    split_to_even_chunks of llava/train/llava_trainer.py (haotian-liu/LLaVA, c121f04).
    """
    if len(indices) % chunks:
        return [list(indices[start::chunks]) for start in range(chunks)]
    size = len(indices) // chunks
    found: list[list[int]] = [[] for _ in range(chunks)]
    totals: list[float] = [0] * chunks
    for index in indices:
        shortest = totals.index(min(totals))
        found[shortest].append(index)
        totals[shortest] = totals[shortest] + lengths[index] if len(found[shortest]) < size else float("inf")
    return found


def by_length(
    lengths: Sequence[int], batch: int, world: int, chance: torch.Generator | None
) -> list[list[int]]:
    """Shuffled indices in global batches of `batch * world`, the longest first and spread over processes."""
    shuffled = torch.randperm(len(lengths), generator=chance).tolist()
    size = batch * world
    found: list[list[int]] = []
    for start in range(0, len(shuffled), size):
        longest_first = sorted(shuffled[start : start + size], key=lambda i: lengths[i], reverse=True)
        found.append([i for chunk in even_chunks(longest_first, lengths, world) for i in chunk])
    return found


def modality_order(
    lengths: Sequence[int],
    batch: int,
    world: int,
    rule: Literal["llava", "internvl"],
    within: torch.Generator | None = None,
    between: torch.Generator | None = None,
) -> list[int]:
    """The published order of `group_by_modality_length`; `lengths` are negative for rows of text.

    `llava` is LLaVA's (c121f04, `world` there is processes x accumulation), `internvl` that of its v1.1.1,
    which InternVL-Chat kept (`world` is processes): they differ in where the last rows go. Rows are permuted
    with `within` and global batches with `between`; None is torch's global generator, which the originals
    take for the first.
    """
    if any(length == 0 for length in lengths):
        raise InputError("a row has no words at all, so it can not be grouped by length")
    pictures = [i for i, length in enumerate(lengths) if length > 0]
    texts = [i for i, length in enumerate(lengths) if length < 0]
    if not pictures or not texts:
        if rule == "internvl":
            raise InputError(
                "grouping internvl needs rows with and rows without pictures; use grouping llava"
            )
        return [i for group in by_length(lengths, batch, world, between) for i in group]
    groups: list[list[int]] = []
    last: list[int] = []
    size = batch * world
    for chosen in (pictures, texts):
        own = [abs(lengths[i]) for i in chosen]
        order = [chosen[i] for group in by_length(own, batch, world, within) for i in group]
        cut = [order[start : start + size] for start in range(0, len(order), size)]
        groups += cut[:-1]
        last += cut[-1]
    mixed = [groups[i] for i in torch.randperm(len(groups), generator=between).tolist()]
    if rule == "llava":
        mixed.append(sorted(last))
    else:
        if len(last) >= size:
            mixed.insert(0, last[:size])
            last = last[size:]
        mixed.append(last)
    return [i for group in mixed for i in group]


class ModalityLengthSampler(EpochSampler):
    """All rows once per epoch in a published order; it depends on the seed and the epoch alone."""

    def __init__(
        self, lengths: Sequence[int], batch: int, world: int, rule: Literal["llava", "internvl"], seed: int
    ) -> None:
        super().__init__(lengths, batch, seed)
        self.world = world
        self.rule: Literal["llava", "internvl"] = rule

    def __iter__(self) -> Iterator[int]:
        chance = self.chance()
        yield from modality_order(self.lengths, self.batch, self.world, self.rule, chance, chance)
