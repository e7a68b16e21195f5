"""The weights of a trunk in the order that a decode step reads them: put there, lent, and given back."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from beholder.core.errors import ConfigError, InputError
from beholder.core.narrow_linear import NarrowLinear
from beholder.generation.native import library as native
from beholder.generation.native.formats import FORMATS, LANES, Packing, check_stored, plan
from beholder.generation.native.loans import Loan, let_go, let_go_of_files
from beholder.generation.native.parts import LayerParts, TrunkParts, parts_of, weight_of

log = logging.getLogger("beholder")

Place = tuple[int, int, int, int]  # layer, part, the first row in it, and how far apart blocks stand


class PackedParts:
    """The packed matrices of a trunk, and the threads that read them.

    Copies: the parts stay as they are, for prefill, but with `takes_over` narrow linears lend their codes and
    scales, until they are given back. What that takes is logged before it is taken. `threads`
    are torch's unless told, and with `pin` each stays on a processor of its own during a step; `level` is one
    of `library.status().levels`, the best unless told. ConfigError where parts and packing do not fit.
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
        self.lending = threading.RLock()  # nobody reads what is just being given back
        self._native = native.load()
        self.parts, self.packing, self.rows = parts, packing, rows
        self.plan = plan(parts, packing)
        self.threads = torch.get_num_threads() if threads is None else threads
        self.level = _known_level(level)
        if min(self.rows, self.threads) < 1:
            raise ConfigError(f"rows is {rows} and threads is {self.threads}; both must be at least 1")
        log.info("native decode (%s, %s): %s", packing.weights, self.level, self.plan)
        self._handle = self._make(_processors(self.threads) if pin else [])
        if takes_over and self.plan.moved:
            let_go_of_files()
        try:
            self._fill()
        except BaseException:
            self.give_back()
            raise

    @classmethod
    def of(cls, model: Any, weights: str, *, group: int = 64, head: str | None = None, **more: Any) -> Self:
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
        confirm(wrong)
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

    def _put_narrow(self, linear: NarrowLinear, place: Place) -> None:
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

    def take(self, place: Place, codes: Tensor, scales: Tensor, first: int, last: int) -> None:
        """Rows of a narrow linear into tensors, in the order that it had them in."""
        layer, part, *target = place
        self._native.take_codes(
            self._handle, layer, part, codes.data_ptr(), scales.data_ptr(), first, last, *target
        )

    def widen(self, place: Place, wide: Tensor, first: int, last: int) -> None:
        """Rows of a narrow linear as what they stand for, into a tensor of float32 or bfloat16."""
        layer, part, *target = place
        is_bfloat = wide.dtype == torch.bfloat16
        self._native.widen_codes(self._handle, layer, part, wide.data_ptr(), is_bfloat, first, last, *target)

    @property
    def has_lost(self) -> bool:
        """Whether a layer has taken its weights back, to change or to move them."""
        return not all(loan.is_running for loan in self._loans)

    def give_back(self) -> None:
        """Let the layers that lent their weights have them again, part by part; no step can be run then."""
        parts = dict.fromkeys(loan.part for loan in self._loans)
        for layer, part in parts:
            with self.lending:
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
            made.append(torch.empty(columns, device="cpu"))
            self._native.unpack(self._handle, layer, part, row, made[-1].data_ptr())
        return torch.stack(made)


def confirm(wrong: bytes | None) -> None:
    """InputError with what the library says is wrong, if anything is."""
    if wrong:
        raise InputError(f"native decode: {wrong.decode()}")


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
