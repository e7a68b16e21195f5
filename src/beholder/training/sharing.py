"""Rows about the same picture hold it once: its slots stand before all their questions and are computed once.

What a row's tokens see is what they would see alone, the picture and their own words, so the loss and its
gradients are those of separate rows. A picture of 576 slots that is asked ten short things costs a tenth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from beholder.processing.labels import IGNORED
from beholder.training.collate import Sample


@dataclass(frozen=True)
class Bundle:
    """Samples whose first `shared` positions are the same and stand once, before what is each one's own."""

    samples: tuple[Sample, ...]
    shared: int = 0

    def parts(self) -> list[int]:
        """Positions of the beginning and of each sample's rest; of a sample that stands alone, all."""
        lengths = [len(sample["input_ids"]) for sample in self.samples]
        return [self.shared, *(length - self.shared for length in lengths)] if self.shared else lengths

    @property
    def length(self) -> int:
        """Positions of all parts."""
        return sum(self.parts())


def bundles(
    samples: Sequence[Sample], picture_end: Callable[[Sample], int], longest: int | None
) -> list[Bundle]:
    """The samples in bundles of at most `longest` positions, one with the same pictures and words before.

    A sample in which an answer comes before a picture's end stands alone, as one without a picture does.
    """
    found: list[Bundle] = []
    open_ones: dict[tuple[bytes, tuple[int, ...]], int] = {}  # where there may be room left
    for sample in samples:
        end = picture_end(sample)
        if not 0 < end < first_trained(sample):
            found.append(Bundle((sample,)))
            continue
        alike = (digest(sample), tuple(sample["input_ids"][:end]))
        if alike in open_ones:
            at = open_ones[alike]
            joined = Bundle((*found[at].samples, sample), end)
            if longest is None or joined.length <= longest:
                found[at] = joined
                continue
        open_ones[alike] = len(found)
        found.append(Bundle((sample,)))
    return found


def first_trained(sample: Sample) -> int:
    """The first position with a label; the sample's end where there is none."""
    labels = sample["labels"]
    return next((at for at, label in enumerate(labels) if label != IGNORED), len(labels))


def digest(sample: Sample) -> bytes:
    """The same for the same numbers of pictures."""
    pixels = torch.as_tensor(sample["pixel_values"]).contiguous()
    return hashlib.blake2b(pixels.view(torch.uint8).numpy().data, digest_size=16).digest()
