"""A trunk packed for decoding: one native call per token of up to `rows` requests.

Shape letters: B rows, H hidden width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import time
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beholder.core.errors import InputError
from beholder.generation.native import library as native
from beholder.generation.native.formats import BLOCK, Packing
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.packed_parts import PackedParts, confirm
from beholder.generation.native.parts import TrunkParts
from beholder.generation.native.rotary import RotaryTable

Ranges = Sequence[tuple[int, int]]  # places of one row's tokens in order: first, one past the last


class PackedTrunk(PackedParts):
    """The packed weights and what runs over them. One step at a time; not after a fork."""

    def __init__(self, parts: TrunkParts, packing: Packing, **more: Any) -> None:
        super().__init__(parts, packing, **more)
        self.seconds = 0.0  # inside native steps so far
        self._rotary = RotaryTable(parts.rotary)

    def read_speed(self, size: int = 2**29) -> float:
        """Bytes per second at which this trunk's threads read so much memory and do nothing else."""
        return size / self._native.read(self._handle, size)

    @torch.inference_mode()
    def step(
        self,
        tokens: Sequence[int] | Tensor,
        positions: Sequence[int],
        memory: KeyValues,
        places: Sequence[Ranges],
    ) -> Tensor:
        """Run one token of each row; the scores after each, (B, V) float32.

        `tokens` are ids, or embeddings (B, H); `positions` the rotary ones. `places` are where each row's
        tokens stand in `memory`: its last place is the new token's, and is written. InputError where these
        do not fit together.
        """
        hidden = self._hidden(tokens)
        rows = len(hidden)
        if not rows == len(positions) == len(places) or not 1 <= rows <= self.rows:
            raise InputError(
                f"{rows} tokens with {len(positions)} positions and places of {len(places)} rows; the trunk "
                f"takes up to {self.rows} rows, with one of each"
            )
        return self._run(hidden, positions, memory, places, is_text=False)

    @torch.inference_mode()
    def read(
        self, tokens: Sequence[int] | Tensor, positions: Sequence[int], memory: KeyValues, places: Ranges
    ) -> Tensor:
        """Run the next tokens of one text; the scores after the last, (1, V) float32.

        As `step`, but `places` are those of the whole text, whose last ones are the new tokens'. More tokens
        than the trunk has rows are run piece by piece.
        """
        hidden = self._hidden(tokens)
        count, length = len(hidden), sum(last - first for first, last in places)
        if not 1 <= count == len(positions) or count > length:
            raise InputError(
                f"{count} tokens with {len(positions)} positions and a text of {length} places; each token "
                "needs one of each"
            )
        scores = hidden
        for at in range(0, count, self.rows):
            end = min(at + self.rows, count)
            piece = _cut(places, length - count + end)
            scores = self._run(hidden[at:end], positions[at:end], memory, [piece], is_text=True)
        return scores

    def _run(
        self, hidden: Tensor, positions: Sequence[int], memory: KeyValues, places: Sequence[Ranges], *,
        is_text: bool,
    ) -> Tensor:  # fmt: skip
        self._check_memory(memory)
        cosines, sines = self._rotary.rows(positions)
        ranges, ends = array("q"), array("q")
        for row in places:
            for pair in row:
                ranges.extend(pair)
            ends.append(len(ranges) // 2)
        stride = -(-self.parts.vocabulary // BLOCK) * BLOCK
        logits = torch.empty((len(places), stride), device="cpu")
        step = native.Step(
            rows=len(hidden),
            hidden=hidden.data_ptr(),
            cosines=cosines.data_ptr(),
            sines=sines.data_ptr(),
            ranges=ranges.buffer_info()[0],
            range_ends=ends.buffer_info()[0],
            keys=ctypes.addressof(memory.keys),
            values=ctypes.addressof(memory.values),
            key_scales=ctypes.addressof(memory.key_scales),
            value_scales=ctypes.addressof(memory.value_scales),
            places=memory.places,
            stored=memory.stored,
            is_text=is_text,
            logits=logits.data_ptr(),
            logits_stride=stride,
        )
        begun = time.perf_counter()
        wrong = self._native.step(self._handle, ctypes.byref(step))
        self.seconds += time.perf_counter() - begun
        confirm(wrong)
        return logits[:, : self.parts.vocabulary]

    def _hidden(self, tokens: Sequence[int] | Tensor) -> Tensor:
        given = tokens if isinstance(tokens, Tensor) else self.parts.embedding(torch.tensor(tokens))
        if given.ndim != 2 or given.shape[1] != self.parts.hidden:
            raise InputError(
                f"embeddings are {tuple(given.shape)}; the trunk takes (rows, {self.parts.hidden})"
            )
        return given.float().contiguous()

    def _check_memory(self, memory: KeyValues) -> None:
        have = (len(memory.layers), memory.key_heads, memory.width)
        want = (len(self.parts.layers), self.parts.key_heads, self.parts.head_width)
        if have != want:
            raise InputError(f"keys and values of (layers, key heads, width) {have}; the trunk has {want}")


def _cut(places: Ranges, length: int) -> Ranges:
    """The first so many places."""
    found: list[tuple[int, int]] = []
    for first, last in places:
        if length > 0:
            found.append((first, min(last, first + length)))
        length -= last - first
    return found
