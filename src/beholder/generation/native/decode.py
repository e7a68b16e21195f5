"""Decode of the engine's rows by a packed trunk: opened for a model, proved against it, kept up with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beholder.core.errors import ConfigError
from beholder.generation.blocks import BlockTable
from beholder.generation.cache import Store, device_memory
from beholder.generation.native.formats import FORMATS, Packing, plan
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.parts import LINEARS, TrunkParts, parts_of
from beholder.generation.native.trunk import PackedTrunk

log = logging.getLogger("beholder")

AUTO = "auto"
OWN_FORMAT = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# Left to itself, packing may fill memory up to this share, counting weights and keys and values.
LARGEST_SHARE = 0.8
# What the model and its packed trunk may differ by on a few tokens, as a part of the scores' spread: far
# above what rounding does. This finds models that do more than their trunk, not formats that are poor.
PROOF = {"float32": 1e-3, "bfloat16": 0.15, "int8": 0.5, "int4": 1.0}
PROOF_TOKENS = 4


class NativeDecode:
    """One model's packed trunk, packed again when weights were exchanged or changed in place."""

    def __init__(self, model: Any, packing: Packing, **more: Any) -> None:
        self.model = model
        self.packing = packing
        self._more = more
        self._used_rows: int | None = getattr(model.config, "used_rows", None)
        self._memory: KeyValues | None = None
        self._pack()

    @classmethod
    def open(
        cls,
        model: Any,
        choice: bool | str,
        *,
        kv_memory: int = 0,
        threads: int | None = None,
        pin: bool = False,
    ) -> NativeDecode | None:
        """For True in the model's own number format, or in the one that is named; False is None.

        "auto" is True where that is possible and fits into memory beside `kv_memory` bytes, and None, with
        the reason logged, where it is not. ConfigError for everything else that cannot be.
        """
        if choice is False:
            return None
        if choice is not True and choice not in (AUTO, *FORMATS):
            raise ConfigError(f"native is {choice!r}; use True, False, {AUTO} or one of {', '.join(FORMATS)}")
        try:
            packing = Packing(_own_format(model) if choice in (True, AUTO) else str(choice))
            if choice == AUTO:
                _check_room(model, packing, kv_memory)
            return cls(model, packing, threads=threads, pin=pin)
        except ConfigError as error:
            if choice != AUTO:
                raise
            log.info("decode stays with PyTorch: %s", error)
            return None

    @torch.inference_mode()
    def answer(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[BlockTable],
        starts: Sequence[int],
        store: Store,
    ) -> Tensor:
        """Run one token of each row, which stands at its start; the scores after each, (rows, vocabulary)."""
        if self._state != _state(self._parts):
            self._pack()
        if self._memory is None or self._memory.layers[0][0] is not store.keys[0]:
            self._memory = KeyValues(list(zip(store.keys, store.values, strict=True)))
        places = [table.ranges(0, start + 1) for table, start in zip(tables, starts, strict=True)]
        most, memory = self.trunk.rows, self._memory
        pieces = [
            self.trunk.step(ids[at : at + most], positions[at : at + most], memory, places[at : at + most])
            for at in range(0, len(ids), most)
        ]
        return self._as_model(pieces[0] if len(pieces) == 1 else torch.cat(pieces))

    def _pack(self) -> None:
        self._parts = parts_of(self.model)
        self._state = _state(self._parts)
        self.trunk = PackedTrunk(self._parts, self.packing, **self._more)
        self._prove()

    def _as_model(self, scores: Tensor) -> Tensor:
        """Rows of the head that stand for no token are out of the question, as the model's forward has it."""
        if self._used_rows is not None:
            scores[:, self._used_rows :] = -torch.inf
        return scores

    @torch.inference_mode()
    def _prove(self) -> None:
        """ConfigError unless a few tokens get the scores that the whole model gives them."""
        ids = [token % self.trunk.parts.vocabulary for token in range(1, PROOF_TOKENS + 1)]
        wanted = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        shape = (self.trunk.parts.key_heads, PROOF_TOKENS, self.trunk.parts.head_width)
        count, dtype = len(self.trunk.parts.layers), self.model.dtype
        memory = KeyValues(
            [(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in range(count)]
        )
        steps = [self.trunk.step([token], [at], memory, [[(0, at + 1)]]) for at, token in enumerate(ids)]
        scores = self._as_model(steps[-1])[0]
        seen = wanted.isfinite()
        error = (scores - wanted)[seen].pow(2).mean().sqrt() / wanted[seen].std()
        if not torch.equal(seen, scores.isfinite()) or not error <= PROOF[self.packing.weights]:
            raise ConfigError(
                f"{type(self.model).__name__} does more than its trunk: native decode differs from it by "
                f"{float(error):.2g} of the scores' spread; decode with PyTorch"
            )


def _own_format(model: Any) -> str:
    if model.dtype not in OWN_FORMAT:
        raise ConfigError(f"native decode takes models in float32 or bfloat16, and this one is {model.dtype}")
    return OWN_FORMAT[model.dtype]


def _check_room(model: Any, packing: Packing, kv_memory: int) -> None:
    needed = plan(parts_of(model), packing).packed
    held = sum(parameter.nbytes for parameter in model.parameters())
    have = device_memory(torch.device("cpu"))
    if held + needed + kv_memory > LARGEST_SHARE * have:
        raise ConfigError(
            f"packed weights of {needed / 2**30:.1f} GiB do not fit beside {held / 2**30:.1f} GiB of the "
            f"model and {kv_memory / 2**30:.1f} GiB for keys and values into {LARGEST_SHARE:.0%} of "
            f"{have / 2**30:.1f} GiB"
        )


def _state(parts: TrunkParts) -> list[tuple[int, int]]:
    """Where the packed numbers came from and how often they were changed, as far as PyTorch counts it."""
    linears = [getattr(layer, name) for layer in parts.layers for name in LINEARS] + [parts.head]
    weights = [linear.weight for linear in linears]
    return [(weight.data_ptr(), -1 if weight.is_inference() else weight._version) for weight in weights]
