"""A trunk packed for decoding: one native call per token of up to `rows` requests.

Shape letters: B rows, H hidden width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
import weakref
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from beholder.core.errors import ConfigError, InputError
from beholder.core.narrow_linear import NarrowLinear
from beholder.generation.native import library as native
from beholder.generation.native.formats import BLOCK, FORMATS, LANES, Packing, check_stored, plan
from beholder.generation.native.loans import Loan, let_go, let_go_of_files
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.parts import LayerParts, TrunkParts, parts_of, weight_of
from beholder.generation.native.rotary import RotaryTable

log = logging.getLogger("beholder")

Ranges = Sequence[tuple[int, int]]  # places of one row's tokens in order: first, one past the last


class PackedTrunk:
    """The weights of a trunk in the order that a decode step reads them, and the threads that read them.

    Copies: the parts stay as they are, for prefill, but with `takes_over` narrow linears lend their codes and
    scales, until they are given back. What that takes is logged before it is taken. `threads`
    are torch's unless told, and with `pin` each stays on a processor of its own during a step; `level` is one
    of `library.status().levels`, the best unless told. One step at a time; not after a fork.
    """

    def __init__(
        self,
        parts: TrunkParts,
        packing: Packing,
        *,
        rows: int = 32,
        threads: int | None = None,
        pin: bool = False,
        level: str | None = None,
        takes_over: bool = False,
    ) -> None:
        check_stored(parts, packing)
        self._takes_over = takes_over
        self._loans: list[Loan] = []
        self._native = native.load()
        self.parts, self.packing, self.rows = parts, packing, rows
        self.seconds = 0.0  # inside native steps so far
        self.plan = plan(parts, packing)
        self.threads = torch.get_num_threads() if threads is None else threads
        self.level = _known_level(level)
        if min(self.rows, self.threads) < 1:
            raise ConfigError(f"rows is {rows} and threads is {self.threads}; both must be at least 1")
        log.info("native decode (%s, %s): %s", packing.weights, self.level, self.plan)
        self._rotary = RotaryTable(parts.rotary)
        self._handle = self._make(_processors(self.threads) if pin else [])
        if takes_over and self.plan.moved:
            let_go_of_files()
        try:
            self._fill()
        except BaseException:
            self.give_back()
            raise

    @classmethod
    def of(
        cls, model: Any, weights: str, *, group: int = 64, head: str | None = None, **more: Any
    ) -> PackedTrunk:
        """Packed from a language or image-text model; ConfigError where it has no such trunk."""
        return cls(parts_of(model), Packing(weights, group, head), **more)

    def _make(self, processors: Sequence[int]) -> ctypes.c_void_p:
        parts, packing = self.parts, self.packing
        shape = native.Shape(
            layers=len(parts.layers),
            hidden=parts.hidden,
            heads=parts.heads,
            key_heads=parts.key_heads,
            head_width=parts.head_width,
            inner=parts.inner,
            vocabulary=parts.vocabulary,
            most_rows=self.rows,
            epsilon=parts.epsilon,
            scaling=parts.head_width**-0.5,
            format=FORMATS.index(packing.weights),
            group=packing.group,
            head_format=FORMATS.index(packing.head_format),
            head_group=packing.group,
        )
        pinned = (ctypes.c_int32 * len(processors))(*processors)
        made = ctypes.c_void_p()
        wrong = self._native.make(
            ctypes.byref(shape),
            self.level.encode(),
            self.threads,
            pinned,
            len(processors),
            ctypes.byref(made),
        )
        _raise(wrong)
        self._release = weakref.finalize(self, self._native.free, made)
        return made

    def _fill(self) -> None:
        parts = self.parts
        for number, layer in enumerate(parts.layers):
            self._fill_layer(number, layer)
        self._put(0, native.HEAD, parts.head)
        self._put_norm(0, 2, parts.last_norm)

    def _fill_layer(self, number: int, layer: LayerParts) -> None:
        parts = self.parts
        mixed, stored = parts.heads * parts.head_width, parts.key_heads * parts.head_width
        self._put(number, native.ENTER, layer.query)
        self._put(number, native.ENTER, layer.key, first=mixed)
        self._put(number, native.ENTER, layer.value, first=mixed + stored)
        self._put(number, native.LEAVE, layer.out)
        self._put(number, native.WIDEN, layer.gate, spread=2)
        self._put(number, native.WIDEN, layer.up, first=LANES, spread=2)
        self._put(number, native.NARROW, layer.down)
        self._put_norm(number, 0, layer.first_norm)
        self._put_norm(number, 1, layer.second_norm)

    def _put(self, layer: int, part: int, linear: nn.Module, *, first: int = 0, spread: int = 1) -> None:
        if isinstance(linear, NarrowLinear):
            self._put_narrow(linear, (layer, part, first, spread))
        else:
            self._put_dense(linear, layer, part, first, spread)
        if (given := cast("nn.Linear", linear).bias) is not None:
            bias = given.detach().float().contiguous()
            self._native.put_bias(self._handle, layer, part, bias.data_ptr(), len(bias), first, spread)

    def _put_narrow(self, linear: NarrowLinear, place: tuple[int, int, int, int]) -> None:
        """Codes and scales as they are; one who has lent them to somebody else goes on doing so."""
        layer, part, first, spread = place
        codes, scales = (kept.contiguous() for kept in linear.rows(0, linear.out_features))
        self._native.put_codes(
            self._handle, layer, part, codes.data_ptr(), scales.data_ptr(), linear.out_features, first, spread
        )
        if self._takes_over and linear.keeper is None:
            self._loans.append(Loan(self, linear, place))
            linear.lend(self._loans[-1])
            let_go((codes, scales))

    def _put_dense(self, linear: nn.Module, layer: int, part: int, first: int, spread: int) -> None:
        weight = weight_of(linear, "a linear").detach()
        is_bfloat = weight.dtype == torch.bfloat16
        source = weight.contiguous() if is_bfloat else weight.float().contiguous()
        self._native.pack(self._handle, layer, part, source.data_ptr(), is_bfloat, len(source), first, spread)

    def _put_norm(self, layer: int, which: int, norm: Any) -> None:
        weight = norm.weight.detach().float().contiguous()
        self._native.put_norm(self._handle, layer, which, weight.data_ptr())

    def take(
        self, place: tuple[int, int, int, int], codes: Tensor, scales: Tensor, first: int, last: int
    ) -> None:
        """Rows of a narrow linear into tensors, in the order that it had them in."""
        layer, part, *target = place
        self._native.take_codes(
            self._handle, layer, part, codes.data_ptr(), scales.data_ptr(), first, last, *target
        )

    @property
    def has_lost(self) -> bool:
        """Whether a layer has taken its weights back, to change or to move them."""
        return not all(loan.is_running for loan in self._loans)

    def give_back(self) -> None:
        """Let the layers that lent their weights have them again, part by part; no step can be run then."""
        parts = dict.fromkeys(loan.part for loan in self._loans)
        for layer, part in parts:
            for loan in self._loans:
                if loan.part == (layer, part) and loan.is_running:
                    loan.linear.take_back()
            self._native.drop(self._handle, layer, part)
        self._loans.clear()

    @property
    def packed_bytes(self) -> int:
        """What the packed matrices take."""
        return self._native.bytes(self._handle)

    def unpacked(self, layer: int, part: int, rows: Iterable[int], columns: int) -> Tensor:
        """What packed rows of a part stand for, (rows, columns) float32: what quantization made of them."""
        made = []
        for row in rows:
            made.append(torch.empty(columns))
            self._native.unpack(self._handle, layer, part, row, made[-1].data_ptr())
        return torch.stack(made)

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
        logits = torch.empty((len(places), stride))
        step = native.Step(
            rows=len(hidden),
            hidden=hidden.data_ptr(),
            cosines=cosines.data_ptr(),
            sines=sines.data_ptr(),
            ranges=ranges.buffer_info()[0],
            range_ends=ends.buffer_info()[0],
            keys=ctypes.addressof(memory.keys),
            values=ctypes.addressof(memory.values),
            places=memory.places,
            is_bfloat=memory.is_bfloat,
            is_text=is_text,
            logits=logits.data_ptr(),
            logits_stride=stride,
        )
        begun = time.perf_counter()
        wrong = self._native.step(self._handle, ctypes.byref(step))
        self.seconds += time.perf_counter() - begun
        _raise(wrong)
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


def _known_level(level: str | None) -> str:
    levels = native.status().levels
    if level is not None and level not in levels:
        raise ConfigError(f"kernels {level!r} are not for this processor; it has {', '.join(levels)}")
    return level or levels[0]


def _processors(threads: int) -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        raise ConfigError("threads cannot be pinned on this system; leave pin out")
    found = sorted(os.sched_getaffinity(0))
    if len(found) < threads:
        raise ConfigError(
            f"{threads} threads cannot be pinned to the {len(found)} processors of this process"
        )
    return found[:threads]


def _raise(wrong: bytes | None) -> None:
    if wrong:
        raise InputError(f"native decode: {wrong.decode()}")
