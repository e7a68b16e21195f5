"""Samples of unequal length become one batch: right padding, no padded position is trained or attended to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.labels import IGNORED, trains_nothing
from beholder.training.data import ROW, mask_of

log = logging.getLogger("beholder")
BLANK_SIDE = 64

Sample = Mapping[str, Any]


def blank_sample(processor: Any) -> dict[str, Any]:
    """A conversation about a blank picture in which nothing is trained.

    A batch of text takes it along, so that tower, projector and visual experts compute in every process.
    """
    picture = Image.new("RGB", (BLANK_SIDE, BLANK_SIDE))
    sample = processor.encode_training([Message.user(picture, "a"), Message.assistant("a")])
    return sample | {"labels": [IGNORED] * len(sample["input_ids"])}


@dataclass(frozen=True)
class Collator:
    """Pad to the longest sample, rounded up to a multiple so that compiled shapes repeat.

    `max_length` is a limit: what `too_long` does with a longer sample never cuts a picture. `picture_id` is
    the id of slots; with `picture_as_one` a picture counts as one position, whatever its slots. `blank` is
    there for a batch of which all is dropped, and with `always_picture` it joins batches without pictures.
    """

    padding_id: int
    multiple: int = 1
    max_length: int | None = None
    too_long: Literal["stop", "cut", "drop"] = "stop"
    picture_id: int | None = None
    picture_as_one: bool = False
    blank: Sample | None = None
    always_picture: bool = False
    processor: Any = None  # spells the tokens of a sample that is shown

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        fitting = self.complete(samples)
        lengths = [len(sample["input_ids"]) for sample in fitting]
        width = -(-max(lengths) // self.multiple) * self.multiple
        fills = {"input_ids": self.padding_id, "labels": IGNORED} | dict.fromkeys(token_keys(fitting), 0)
        batch = {
            key: torch.stack([padded(sample[key], width, fill) for sample in fitting])
            for key, fill in fills.items()
        }
        batch["attention_mask"] = torch.stack([padded([1] * length, width, 0) for length in lengths])
        return batch | pictures_of(fitting) | rows_of(fitting)

    def complete(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that fit, and the blank one if none of them has a picture."""
        fitting: list[Sample] = []
        for sample in samples:
            if (kept := self.fitted(sample)) is not None:
                fitting.append(kept)
            else:
                log.warning("%s; it is left out", self.told(sample))
        is_text = all(sample.get("pixel_values") is None for sample in fitting)
        if self.blank is not None and (not fitting or (self.always_picture and is_text)):
            fitting.append(self.blank)
        if not fitting:
            raise InputError(f"every sample of a batch is longer than max_length {self.max_length}; raise it")
        return fitting

    def fitted(self, sample: Sample) -> Sample | None:
        """The sample within `max_length`, as `too_long` says; None if it is dropped."""
        over = self.length(sample) - (self.max_length or self.length(sample))
        if over <= 0:
            return sample
        if self.too_long == "stop":
            raise InputError(f"{self.told(sample)}; raise it, drop the row, or set too_long to cut or drop")
        if self.too_long == "drop":
            return None
        whole = len(sample["input_ids"])
        if self.picture_end(sample) > whole - over:
            raise InputError(f"{self.told(sample)}; cutting it would cut a picture")
        cut = {
            key: value[: whole - over] if is_per_token(key, value, whole) else value
            for key, value in sample.items()
        }
        if trains_nothing(cut["labels"]) and not trains_nothing(sample["labels"]):
            shown = mask_of(cut["input_ids"], cut["labels"], self.processor)
            raise InputError(
                f"{self.told(sample)}; what is left of it when it is cut has no trained token: {shown}; "
                "raise max_length or remove the row"
            )
        return cut

    def told(self, sample: Sample) -> str:
        """Which sample is how long."""
        name = f"row {sample[ROW]}" if ROW in sample else "a sample"
        return f"{name} has {self.length(sample)} tokens and max_length is {self.max_length}"

    def length(self, sample: Sample) -> int:
        """Positions of a sample as `max_length` counts them."""
        ids = sample["input_ids"]
        if self.picture_id is None or not self.picture_as_one or sample.get("pixel_values") is None:
            return len(ids)
        return len(ids) - list(ids).count(self.picture_id) + len(sample["pixel_values"])

    def picture_end(self, sample: Sample) -> int:
        """Where the last slot of a picture ends; where slots are not known, the end of the sample."""
        if sample.get("pixel_values") is None:
            return 0
        ids = list(sample["input_ids"])
        if self.picture_id is None:
            return len(ids)
        return max((at + 1 for at, token in enumerate(ids) if token == self.picture_id), default=0)


def padded(values: Any, width: int, fill: int) -> Tensor:
    """One row, filled up on the right."""
    row = torch.as_tensor(values, dtype=torch.long)
    return torch.nn.functional.pad(row, (0, width - len(row)), value=fill)


def is_per_token(key: str, value: Any, length: int) -> bool:
    """Whether a sample's entry has one number for each position."""
    if key in ("input_ids", "labels"):
        return True
    if isinstance(value, Tensor):
        return value.ndim == 1 and len(value) == length
    return isinstance(value, list) and len(value) == length and all(isinstance(entry, int) for entry in value)


def token_keys(samples: Sequence[Sample]) -> list[str]:
    """Entries besides ids and labels that have one number per position, as `token_type_ids`."""
    first, length = samples[0], len(samples[0]["input_ids"])
    known = ("input_ids", "labels", "attention_mask", "pixel_values", ROW)
    return [key for key in first if key not in known and is_per_token(key, first[key], length)]


def pictures_of(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """What is there once per picture, one behind the other; fewer tiles are filled up with zeros."""
    skip = {"input_ids", "labels", "attention_mask", ROW, *token_keys(samples)}
    found: dict[str, list[Tensor]] = {}
    for sample in samples:
        for key, value in sample.items():
            if key not in skip and value is not None:
                found.setdefault(key, []).append(torch.as_tensor(value))
    return {key: joined(parts) for key, parts in found.items()}


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(pictures, tiles, ...) tensors one behind the other; all others need nothing filled up."""
    if parts[0].ndim < 5:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    filling = [(0, 0) * (part.ndim - 2) + (0, most - part.shape[1]) for part in parts]
    return torch.cat([torch.nn.functional.pad(part, fill) for part, fill in zip(parts, filling, strict=True)])


def rows_of(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Which rows these are; the blank sample is none."""
    rows = [sample[ROW] for sample in samples if ROW in sample]
    return {"rows": torch.tensor(rows)} if rows else {}
