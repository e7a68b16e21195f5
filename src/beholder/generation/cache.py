"""Keys and values in fixed places, and the view of them that one forward sees as its `Cache`.

Shape letters: L layers, N places, B rows, H key heads, D head width, Q new tokens per row, T stored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from beholder.core.errors import ConfigError
from beholder.generation.attention import folded
from beholder.generation.blocks import BlockTable
from beholder.generation.kept import Kept
from beholder.generation.machine import total_memory

# The budget that nobody set: this many whole contexts, or a quarter of the memory, whichever is less.
DEFAULT_CONTEXTS = 16
BYTES = "int8"  # what keys and values may be kept as, besides what the model has them in
SCALE_BYTES = torch.float32.itemsize  # of a token in one head, where they are


@dataclass(frozen=True)
class Geometry:
    """What one token takes: numbers of `dtype`, or, `in_bytes`, whole numbers of 8 bits and their scales."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    in_bytes: bool = False

    @classmethod
    def of(cls, model: Any, kept: str | None = None) -> Geometry:
        """Read from the language model's configuration; ConfigError if its layers keep something else.

        `kept` is "int8", or None for the model's own number format; ConfigError for other names.
        """
        if kept not in (None, BYTES):
            raise ConfigError(
                f"kv_dtype is {kept!r}; keys and values are kept in {BYTES} or, with kv_dtype left out, in "
                "the model's own number format"
            )
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ConfigError(f"the engine runs full attention only, and this model has {sorted(kinds)}")
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            config.num_hidden_layers,
            getattr(config, "num_key_value_heads", None) or heads,
            width,
            model.dtype,
            in_bytes=kept == BYTES,
        )

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        each = self.width + SCALE_BYTES if self.in_bytes else self.width * self.dtype.itemsize
        return 2 * self.layers * self.heads * each


def device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return total_memory()


def default_memory(geometry: Geometry, context: int, device: torch.device) -> int:
    """A budget in bytes for keys and values where none was given."""
    return min(DEFAULT_CONTEXTS * context * geometry.bytes_per_token, device_memory(device) // 4)


class Store:
    """The memory: per layer one of keys and one of values, (H, N, D); taken when first written to."""

    def __init__(self, geometry: Geometry, places: int, null_places: int, device: torch.device) -> None:
        self.geometry = geometry
        self.places = places
        self.null_places = null_places
        self.device = device
        self.keys: list[Kept] = []
        self.values: list[Kept] = []

    @property
    def tensors(self) -> list[Tensor]:
        """All memory that is taken so far."""
        return [tensor for kept in (*self.keys, *self.values) for tensor in kept.tensors]

    @property
    def bytes(self) -> int:
        """What is taken so far: all of it once the first token was stored."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Kept, Kept]:
        """Keys and values of one layer."""
        if index < len(self.keys):
            return self.keys[index], self.values[index]
        wanted = (self.geometry.heads, self.geometry.width)
        for tensor in (key, value):
            if (tensor.shape[1], tensor.shape[3]) != wanted or index >= self.geometry.layers:
                raise ConfigError(
                    f"layer {index} stores {tensor.shape[1]} heads of width {tensor.shape[3]}; by "
                    f"its configuration the model has {self.geometry.layers} layers of {wanted[0]} heads of "
                    f"{wanted[1]}"
                )
        while len(self.keys) <= index:
            memory = self._memory(key), self._memory(value)  # both or, where there is no room, neither
            self.keys.append(memory[0])
            self.values.append(memory[1])
        return self.keys[index], self.values[index]

    def whole(self) -> tuple[list[Kept], list[Kept]]:
        """Keys and values of all layers, whether anything was stored or not."""
        if len(self.keys) < self.geometry.layers:
            sample = torch.empty((1, self.geometry.heads, 1, self.geometry.width), dtype=self.geometry.dtype)
            sample = sample.to(self.device)
            self.layer(self.geometry.layers - 1, sample, sample)
        return self.keys, self.values

    def _memory(self, sample: Tensor) -> Kept:
        shape = (self.geometry.heads, self.places, self.geometry.width)
        return Kept.like(sample, shape, self.null_places, in_bytes=self.geometry.in_bytes)


def stored_places(tables: Sequence[BlockTable], stops: Sequence[int], rows: int, length: int) -> Tensor:
    """(rows, length) places of each table's positions up to its stop; 0, the null block's, where none is."""
    places = torch.zeros((rows, length), dtype=torch.long)
    for row, (table, stop) in enumerate(zip(tables, stops, strict=True)):
        position = 0
        for first, last in table.ranges(0, stop):
            places[row, position : position + last - first] = torch.arange(first, last)
            position += last - first
    return places


class StoredView(Cache):
    """Several rows of different lengths, each about to grow by the same number of tokens.

    `filler` tells for each row how many of its new tokens, the first ones, only fill it up and are not kept.
    A single row, or `direct` rows (attended to one by one), are read where they stand if that is one run;
    other rows are gathered side by side, shorter ones filled up with the null block.
    """

    is_compileable = False  # pyright: ignore[reportAssignmentType]  # a property there, an attribute of other caches

    def __init__(
        self,
        store: Store,
        tables: Sequence[BlockTable],
        starts: Sequence[int],
        count: int,
        *,
        direct: bool,
        filler: Sequence[int] = (),
    ) -> None:
        super().__init__(layers=[])
        self.store = store
        self.count = count
        filler = filler or [0] * len(tables)
        self._no_filler = self._not_filler(filler) if any(filler) else None
        self.direct = direct
        self.attended = 0  # how often the layers asked `attend`, which they must after every update
        self.updated = 0
        self._stops = [start + count - fill for start, fill in zip(starts, filler, strict=True)]
        self.longest = max(self._stops)
        self._ranges = (
            [table.ranges(0, stop) for table, stop in zip(tables, self._stops, strict=True)]
            if direct or len(tables) == 1
            else []
        )
        self._at = self._new_places(tables, starts)
        self._gather = None if self._ranges else self._all_places(tables)
        self._keys: Kept | None = None
        self._values: Kept | None = None

    def _new_places(self, tables: Sequence[BlockTable], starts: Sequence[int]) -> Tensor | tuple[int, int]:
        """Where the new tokens go: a range, or an index of rows * count places."""
        if len(tables) > 1 and self.count == 1:
            ones = [table.place(start) for table, start in zip(tables, starts, strict=True)]
            return torch.tensor(ones, device=self.store.device)
        ranges: list[tuple[int, int]] = []
        for table, start, stop in zip(tables, starts, self._stops, strict=True):
            ranges += table.ranges(start, stop)
        if len(ranges) == 1:
            return ranges[0]
        places = torch.cat([torch.arange(first, last) for first, last in ranges])
        return places.to(self.store.device)

    def _not_filler(self, filler: Sequence[int]) -> Tensor:
        """Which of rows * count new tokens are kept."""
        size = self.count
        rows = [torch.arange(row * size + fill, (row + 1) * size) for row, fill in enumerate(filler)]
        return torch.cat(rows).to(self.store.device)

    def _all_places(self, tables: Sequence[BlockTable]) -> Tensor:
        """(B, T) places of everything, 0 where a row is shorter than the longest."""
        return stored_places(tables, self._stops, len(tables), self.longest).to(self.store.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store (B, H, Q, D) keys and values; all of the rows', (B, H, T, D), come back unless `direct`.

        The new ones too are as they are stored: whoever reads them later reads the same.
        """
        keys, values = self.store.layer(layer_idx, key_states, value_states)
        self._write(keys, key_states)
        self._write(values, value_states)
        self._keys, self._values = keys, values
        self.updated += 1
        if self.direct:
            return key_states, value_states
        if self._gather is None:
            return self.row(0)
        return self._gathered(keys), self._gathered(values)

    def _write(self, memory: Kept, new_BHQD: Tensor) -> None:
        flat_HTD = new_BHQD[0] if len(new_BHQD) == 1 else new_BHQD.transpose(0, 1).flatten(1, 2)
        if self._no_filler is not None:
            flat_HTD = flat_HTD.index_select(1, self._no_filler)
        memory.write(self._at, flat_HTD)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
    ) -> Tensor:
        """See `Stored.attend`: `direct` rows one by one where their keys stand, others side by side."""
        self.attended += 1
        if not self.direct:
            return folded(query, key, value, mask, scaling)
        rows = range(len(query))
        outputs = [folded(query[index : index + 1], *self.row(index), None, scaling) for index in rows]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one row at the layer that was updated last, (1, H, T, D); no copy of one run
        unless they are kept in bytes."""
        assert self._keys is not None
        assert self._values is not None
        ranges = self._ranges[index]
        if len(ranges) == 1:
            return self._keys.run(*ranges[0])[None], self._values.run(*ranges[0])[None]
        pieces = [
            torch.cat([memory.run(first, last) for first, last in ranges], dim=1)[None]
            for memory in (self._keys, self._values)
        ]
        return pieces[0], pieces[1]

    def _gathered(self, memory: Kept) -> Tensor:
        assert self._gather is not None
        B, T = self._gather.shape
        return memory.gathered(self._gather.flatten()).unflatten(1, (B, T)).transpose(0, 1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Stored tokens of the longest row."""
        return self.longest - self.count

    def get_query_offset(self, layer_idx: int | None = 0) -> int:
        """Where the new tokens begin in the longest row."""
        return self.longest - self.count

    def get_mask_sizes(self, query_length: int, layer_idx: int | None = 0) -> tuple[int, int]:
        """Length of what attention sees, and where that begins."""
        return self.longest, 0

    def get_max_length(self, layer_idx: int = 0) -> int:
        """No limit of its own."""
        return -1
