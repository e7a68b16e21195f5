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
from beholder.generation.native.parts import LINEARS, NORMS, TrunkParts, parts_of
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
# Formats in which prompts are read by the trunk too: products of bytes take half as long as PyTorch's.
READING = ("int8", "int4")
READ_ROWS = 256  # of a prompt at once

# Where a model keeps a module: the children of the one above, the name among them, and what stood there.
Place = tuple[dict[str, Any], str, Any]


class NativeDecode:
    """One model's packed trunk, packed again when weights were exchanged or changed in place."""

    def __init__(self, model: Any, packing: Packing, **more: Any) -> None:
        self.model = model
        self.packing = packing
        self.reads = packing.weights in READING
        if self.reads:
            more = {"rows": READ_ROWS, **more}
        self._more = more
        self._may_give_up = self._gave_up = False
        self._places: list[Place] = []
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
            opened = cls(model, packing, threads=threads, pin=pin)
            opened._may_give_up = choice == AUTO
            return opened
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
        memory = self._memory_of(store)
        places = [table.ranges(0, start + 1) for table, start in zip(tables, starts, strict=True)]
        most = self.trunk.rows
        pieces = [
            self.trunk.step(ids[at : at + most], positions[at : at + most], memory, places[at : at + most])
            for at in range(0, len(ids), most)
        ]
        return self._as_model(pieces[0] if len(pieces) == 1 else torch.cat(pieces))

    @torch.inference_mode()
    def read(
        self,
        tokens: Sequence[int] | Tensor,
        positions: Sequence[int],
        table: BlockTable,
        stop: int,
        store: Store,
    ) -> Tensor:
        """Run a piece of one prompt that ends before `stop`, ids or embeddings (tokens, H); the scores after
        its last token, (1, vocabulary)."""
        scores = self.trunk.read(tokens, positions, self._memory_of(store), table.ranges(0, stop))
        return self._as_model(scores)

    def is_ready(self) -> bool:
        """Whether the next step may be run natively; what has changed is packed again first.

        Not while somebody listens to modules or has put another forward into them, which would not be asked.
        Where changed weights cannot be packed it is ConfigError; without anybody having insisted on native
        decode it is never ready again, and the reason is logged.
        """
        modules = [self.model, *(module for _, _, module in self._places)]
        if self._gave_up or any(map(_is_watched, modules)):
            return False
        if all(children.get(name) is module for children, name, module in self._places) and (
            self._state == _state(self._parts)
        ):
            return True
        try:
            self._pack()
        except ConfigError as error:
            if not self._may_give_up:
                raise
            log.info("decode goes back to PyTorch: %s", error)
            self._gave_up = True
        return not self._gave_up

    def _memory_of(self, store: Store) -> KeyValues:
        if not store.keys:
            like = torch.empty((1, store.geometry.heads, 1, store.geometry.width), dtype=store.geometry.dtype)
            for index in range(store.geometry.layers):
                store.layer(index, like, like)
        if self._memory is None or self._memory.layers[0][0] is not store.keys[0]:
            self._memory = KeyValues(list(zip(store.keys, store.values, strict=True)))
        return self._memory

    def _pack(self) -> None:
        self._parts = parts_of(self.model)
        self._places = _places(self.model, self._parts)
        self._state = _state(self._parts)
        self.__dict__.pop("trunk", None)  # the old one goes first: not both of them are kept
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


def _modules(parts: TrunkParts) -> list[Any]:
    inside = [getattr(layer, name) for layer in parts.layers for name in (*LINEARS, *NORMS)]
    return [*inside, parts.last_norm, parts.head, parts.embedding]


def _state(parts: TrunkParts) -> list[tuple[int, int]]:
    """Where the packed numbers came from and how often they were changed, as far as PyTorch counts it."""
    weights = [module.weight for module in _modules(parts)]
    return [(weight.data_ptr(), -1 if weight.is_inference() else weight._version) for weight in weights]


def _is_watched(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _places(model: Any, parts: TrunkParts) -> list[Place]:
    """Where the model keeps the parts and what is above them: an adapter puts another module there."""
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    wanted: set[str] = set()
    for module in _modules(parts):
        steps = names.get(id(module), "").split(".")
        wanted |= {".".join(steps[:count]) for count in range(1, len(steps) + 1)}
    found: list[Place] = []
    for name in sorted(wanted - {""}):
        above, _, last = name.rpartition(".")
        children = model.get_submodule(above)._modules
        found.append((children, last, children[last]))
    return found
