"""One request's input tensors, sorted: what belongs to single tokens, and what belongs to its pictures.

Where pictures stand the model says by `config.image_token_id`, and what stands there comes from its
`get_image_features(**picture_inputs)`. A model to which that is not enough has `lay_out_prompt`, see
`PromptLayout`. A model without any of these runs its own forward over the whole prompt at once.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from beholder.core.errors import InputError
from beholder.generation.scheduler import Content

POSITIONS = "position_ids"
DIGEST_BYTES = 16
# The digest as two of the 64-bit numbers that describe a token.
DIGEST_COLUMNS = DIGEST_BYTES // 8


class PromptLayout(Protocol):
    """A model whose experts or positions follow from the whole prompt, so that they must be known before a
    part of it is run."""

    def lay_out_prompt(self, input_ids: Tensor, **per_token: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a whole prompt, (1, length): which positions are pictures' (bool), and the tensors that its
        forward takes with any part of it, `position_ids` among them. After the prompt 0 follows in each."""
        ...


@dataclass(frozen=True)
class Picture:
    """One picture: where its features stand in the prompt, its tensors, and a digest of these."""

    slots: Tensor
    inputs: dict[str, Any]
    digest: bytes | None
    first: int = field(init=False)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", int(self.slots[0]))
        object.__setattr__(self, "last", int(self.slots[-1]))

    @property
    def key(self) -> object:
        """Equal for pictures that are known to be the same."""
        return self.digest or id(self)


@dataclass(eq=False)
class Prompt:
    """Token ids, grown by what the model says, and everything that goes with them.

    `per_token` are further (1, length) tensors of the prompt, cut along with it; `positions` is one of them.
    `whole` are picture inputs that only the model's own forward can use. `features`, while the prompt is
    read, are those of its pictures that were seen so far, by `Picture.key`.
    """

    ids: list[int]
    per_token: dict[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    pictures: tuple[Picture, ...] = ()
    whole: dict[str, Any] = field(default_factory=dict)
    features: dict[object, Tensor] = field(default_factory=dict)
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = len(self.ids)
        last = self.length - 1 if self.positions is None else int(self.positions[0, -1])
        self._ahead = last + 1 - self.length  # of the answer's positions to its places
        self._row = struct.Struct(f"<{1 + (self.positions is not None)}q")
        self._zeros = bytes(8 * (len(self.per_token) + DIGEST_COLUMNS))

    def position(self, index: int) -> int:
        """The position id of the token there; the answer counts on from the prompt's last."""
        if self.positions is None:
            return index
        if index < self.length:
            return int(self.positions[0, index])
        return index + self._ahead

    def shown(self, start: int, stop: int) -> list[Picture]:
        """The pictures that have a place between `start` and `stop`."""
        return [one for one in self.pictures if one.first < stop and one.last >= start]

    def content(self) -> Content | None:
        """The bytes by which a stored beginning is found again; None if a picture has no digest."""
        if self.whole or any(picture.digest is None for picture in self.pictures):
            return None
        columns = [torch.tensor(self.ids)]
        if self.positions is not None:
            columns.append(self.positions[0].to("cpu", torch.int64))
        columns += [tensor[0].to("cpu", torch.int64) for tensor in self.per_token.values()]
        width = len(columns) + DIGEST_COLUMNS
        rows = torch.zeros((self.length, width), dtype=torch.int64)
        rows[:, : len(columns)] = torch.stack(columns, dim=1)
        for picture in self.pictures:
            digest = torch.frombuffer(bytearray(picture.digest or b""), dtype=torch.int64)
            rows[picture.slots, len(columns) :] = digest
        return Content(rows.numpy().tobytes(), 8 * width)

    def row(self, index: int) -> bytes:
        """The bytes of one token of the answer: those it will have when it is part of a later prompt."""
        if self.positions is None:
            return self._row.pack(self.ids[index]) + self._zeros
        return self._row.pack(self.ids[index], self.position(index)) + self._zeros


def read_prompt(model: Any, inputs: Mapping[str, Any], *, digests: bool) -> Prompt:
    """Sort what the processor made of one conversation (one row); `digests`: whether to hash pictures."""
    ids: Tensor = inputs["input_ids"]
    if ids.ndim != 2 or ids.shape[0] != 1:
        raise ValueError(f"the engine runs one conversation per request, not {ids.shape[0]} rows")
    if ids.shape[1] == 0:
        raise InputError("the prompt has no tokens; give at least one")
    mask = inputs.get("attention_mask")
    if mask is not None and (mask.shape != ids.shape or not bool(mask.all())):
        raise ValueError("the engine takes one unpadded row; its attention_mask must be all ones")
    others = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    per_token = {name: value for name, value in others.items() if _is_per_token(value, ids)}
    shown = {name: value for name, value in others.items() if name not in per_token and value is not None}
    slots, per_token = _lay_out(model, ids, per_token)
    positions = per_token.pop(POSITIONS, None)
    prompt = Prompt(ids[0].tolist(), per_token, positions)
    if shown and (slots is None or not hasattr(model, "get_image_features")):
        prompt.whole = shown
    else:
        prompt.pictures = _pictures(shown, slots, digests)
    return prompt


def _is_per_token(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == ids.shape and not value.is_floating_point()


def _lay_out(
    model: Any, ids: Tensor, per_token: dict[str, Tensor]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Which positions are pictures', (length,), None if the model does not tell; and what is cut along."""
    if hasattr(model, "lay_out_prompt"):
        is_slot, per_token = model.lay_out_prompt(ids, **per_token)
        return is_slot[0].cpu(), dict(per_token)
    token = getattr(model.config, "image_token_id", None)
    return None if token is None else (ids[0] == token).cpu(), per_token


def _pictures(shown: dict[str, Any], slots: Tensor | None, digests: bool) -> tuple[Picture, ...]:
    places = torch.empty(0, dtype=torch.long) if slots is None else slots.nonzero()[:, 0]
    if not shown or len(places) == 0:
        if shown or len(places):
            raise disagreement(len(places), "some" if shown else 0)
        return ()
    return tuple(
        Picture(some, inputs, digest_of(inputs) if digests else None)
        for some, inputs in _one_by_one(shown, places)
    )


def _one_by_one(shown: dict[str, Any], places: Tensor) -> list[tuple[Tensor, dict[str, Any]]]:
    """Places and inputs of each picture where it is plain which are whose, else all of them as one.

    It is plain where every input has a row per picture, and as many runs of places as there are pictures, or
    one input alone: its rows have one shape, so pictures take equally many places.
    """
    if not all(isinstance(value, Tensor) and value.ndim > 0 for value in shown.values()):
        return [(places, shown)]
    counts = {len(value) for value in shown.values()}
    count = counts.pop()
    breaks = (places.diff() > 1).nonzero()[:, 0] + 1
    if counts or count == 0:
        return [(places, shown)]
    if len(breaks) + 1 == count:
        shares = places.tensor_split(breaks)
    elif len(shown) == 1 and len(places) % count == 0:
        shares = places.split(len(places) // count)
    else:
        return [(places, shown)]
    return [
        (share, {name: value[n : n + 1] for name, value in shown.items()}) for n, share in enumerate(shares)
    ]


def digest_of(inputs: Mapping[str, Any]) -> bytes | None:
    """A digest of a picture's tensors; None if something else is among them."""
    sha = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        if not isinstance(value, Tensor):
            return None
        sha.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.digest()[:DIGEST_BYTES]


def disagreement(places: int, have: object) -> InputError:
    """What to say where a prompt reserves other places than its pictures fill."""
    return InputError(
        f"the prompt reserves {places} picture positions and the pictures give {have}; "
        "prepare both with the same processor, and pass every picture once"
    )


def place_features(embeddings: Tensor, start: int, picture: Picture, features: Tensor) -> None:
    """Overwrite a picture's rows of (1, length, width) embeddings, which begin at the prompt's position
    `start`, with those of its (slots, width) features that stand there."""
    if len(features) != len(picture.slots):
        raise disagreement(len(picture.slots), len(features))
    stop = start + embeddings.shape[1]
    is_here = (picture.slots >= start) & (picture.slots < stop)
    rows = (picture.slots[is_here] - start).to(embeddings.device)
    here = features if bool(is_here.all()) else features[is_here.to(features.device)]
    embeddings[0, rows] = here.to(embeddings.device, embeddings.dtype)
