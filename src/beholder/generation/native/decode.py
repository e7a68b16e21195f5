"""Decode of the engine's rows by a packed trunk: opened for a model, proved against it, kept up with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beholder.core.errors import BeholderError, ConfigError
from beholder.core.narrow_linear import NarrowLinear, is_narrow
from beholder.generation.blocks import BlockTable
from beholder.generation.cache import Store, device_memory
from beholder.generation.machine import free_memory, own_memory
from beholder.generation.native.formats import FORMATS, Packing, plan, stored_packing
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.parts import TrunkParts, linears_of, parts_of
from beholder.generation.native.trunk import PackedTrunk
from beholder.generation.native.watch import Watch, is_listened_to

log = logging.getLogger("beholder")

AUTO = "auto"
OWN_FORMAT = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# Left to itself, packing may fill memory up to this share, counting weights and keys and values, and take
# this share of what is free.
LARGEST_SHARE = 0.8
# What the model and its packed trunk may differ by on a few tokens, as a part of the scores' spread: far
# above what rounding does. This finds models that do more than their trunk, not formats that are poor.
PROOF = {"float32": 1e-3, "bfloat16": 0.15, "int8": 0.5, "int4": 1.0}
PROOF_TOKENS = 4
# Formats in which whole prompts are read by the trunk: products of bytes take half as long as PyTorch's.
READING = ("int8", "int4")
READ_ROWS = 256  # of a prompt at once
# In the others the end of a prompt, or a short one: PyTorch would bring the weights into another order
# first, which for so few tokens takes longer than what its products are faster by. Not of a small trunk:
# nothing is won there, and in bfloat16 an answer's last bits would depend on what was known of its prompt.
SHORT_READ = {"float32": 32, "bfloat16": 128}
SMALL_TRUNK = 2**27  # bytes


class NativeDecode:
    """One model's packed trunk, packed again when weights were exchanged or changed in place.

    `may_give_up`: where that cannot be done any more, it is not ready instead of raising ConfigError.
    """

    def __init__(self, model: Any, packing: Packing, *, may_give_up: bool = False, **more: Any) -> None:
        self.model = model
        self.packing = packing
        rows = READ_ROWS if packing.weights in READING else SHORT_READ[packing.weights]
        self._more = {"rows": rows, **more}
        self._may_give_up = may_give_up
        self.gave_up = self._is_stale = self._was_listened_to = False
        self._used_rows: int | None = getattr(model.config, "used_rows", None)
        self._memory: KeyValues | None = None
        self._process = os.getpid()
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
        """For True in the form that the model has, or in the one that is named; False is None.

        "auto" is True where that is possible and fits into memory beside `kv_memory` bytes, and None, with
        the reason logged, where it is not. ConfigError for everything else that cannot be.
        """
        if choice is False or (choice == AUTO and model.device.type != "cpu"):
            return None
        if choice is not True and choice not in (AUTO, *FORMATS):
            raise ConfigError(f"native is {choice!r}; use True, False, {AUTO} or one of {', '.join(FORMATS)}")
        try:
            packing = _packing(model, choice)
            if choice == AUTO:
                parts = parts_of(model)
                _check_quiet(model, parts)
                _check_room(model, parts, packing, kv_memory)
            return cls(model, packing, may_give_up=choice == AUTO, threads=threads, pin=pin)
        except (BeholderError, MemoryError) as error:
            if choice != AUTO:
                raise
            log.info("decode stays with PyTorch, which takes longer per token: %s", error)
            return None

    def reads(self, count: int) -> bool:
        """Whether so many tokens of a prompt are read here too, and not by the model."""
        if self.packing.weights in READING:
            return True
        return count <= SHORT_READ[self.packing.weights] and self.bytes >= SMALL_TRUNK

    @property
    def bytes(self) -> int:
        """What the packed weights take."""
        return self.trunk.packed_bytes if "trunk" in self.__dict__ else 0

    @property
    def seconds(self) -> float:
        """Inside native steps since the weights were packed last."""
        return self.trunk.seconds if "trunk" in self.__dict__ else 0.0

    @property
    def linears(self) -> list[nn.Module]:
        """The layers whose products it computes instead of PyTorch."""
        return linears_of(self.trunk.parts)

    def __str__(self) -> str:
        level = self.trunk.level if "trunk" in self.__dict__ else "not packed"
        return f"native ({self.packing.weights}, {level})"

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
        """Whether the next steps may be run natively; what has changed is packed again first.

        Not while somebody listens to modules or has put another forward into them, which would not be asked.
        Where changed weights cannot be packed it is ConfigError; without anybody having insisted on native
        decode it is never ready again, and the reason is logged.
        """
        if self.gave_up or self._is_listened_to():
            return False
        try:
            self._keep_up()
        except (BeholderError, MemoryError) as error:
            if not self._may_give_up:
                raise
            log.info("decode goes back to PyTorch: %s", error)
            self.release()
            self.gave_up = True
        return not self.gave_up

    def forget(self) -> None:
        """Pack again before the next step, whatever can be seen of the weights."""
        self._is_stale = True

    def release(self) -> None:
        """Give the packed weights and their threads back; they are made again when they are needed."""
        trunk: PackedTrunk | None = self.__dict__.pop("trunk", None)
        self.__dict__.pop("watch", None)
        if trunk is not None:
            trunk.give_back()

    def _is_listened_to(self) -> bool:
        before, self._was_listened_to = self._was_listened_to, self.watch.is_listened_to()
        if self._was_listened_to and not before:
            log.info("decode is PyTorch's while modules have hooks or another forward")
        return self._was_listened_to

    def _keep_up(self) -> None:
        if self._process != os.getpid():
            raise ConfigError("native decode cannot go on in a forked process; open the model in that one")
        why = "asked to" if self._is_stale else self.watch.changed()
        if not why and self.trunk.has_lost:
            why = "narrow weights were taken back"
        if why:
            log.info("the packed weights are made again: %s", why)
            self._pack()

    def _memory_of(self, store: Store) -> KeyValues:
        if self._memory is None or self._memory.layers[0][0] is not store.whole()[0][0].numbers:
            self._memory = KeyValues.of(store)
        return self._memory

    def _pack(self) -> None:
        parts = parts_of(self.model)
        self.release()  # the old one goes first: not both of them are kept
        self._is_stale = True
        self.watch = Watch(self.model, parts)
        self.trunk = PackedTrunk(parts, self.packing, takes_over=True, **self._more)
        try:
            self._prove()
        except BaseException:
            self.release()
            raise
        self._is_stale = False

    def _as_model(self, scores: Tensor) -> Tensor:
        """Rows of the head that stand for no token are out of the question, as the model's forward has it."""
        if self._used_rows is not None:
            scores[:, self._used_rows :] = -torch.inf
        return scores

    @torch.inference_mode()
    def _prove(self) -> None:
        """ConfigError unless a few tokens get the scores that the whole model gives them."""
        ids = [token % self.trunk.parts.vocabulary for token in range(1, PROOF_TOKENS + 1)]
        try:
            wanted = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        except Exception as error:  # whatever a forward may raise that wants more than ids
            raise ConfigError(
                f"{type(self.model).__name__} cannot be run on {PROOF_TOKENS} tokens alone "
                f"({type(error).__name__}: {error}); decode with PyTorch"
            ) from error
        shape = (self.trunk.parts.key_heads, PROOF_TOKENS, self.trunk.parts.head_width)
        count, dtype = len(self.trunk.parts.layers), self.model.dtype
        zeros = [torch.zeros(shape, dtype=dtype, device="cpu") for _ in range(2 * count)]
        memory = KeyValues(list(zip(zeros[::2], zeros[1::2], strict=True)))
        # Read as a prompt and stepped as an answer: both ways must have been seen.
        last = PROOF_TOKENS - 1
        self.trunk.read(ids[:last], list(range(last)), memory, [(0, last)])
        scores = self._as_model(self.trunk.step(ids[last:], [last], memory, [[(0, last + 1)]]))[0]
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


def _packing(model: Any, choice: bool | str) -> Packing:
    """The form of packed weights: what is asked for, else a narrow model's own, or a dense one's format.

    Whether a narrow model can be packed in what is asked for is `check_stored`'s to say, as packing begins.
    """
    stored = None
    if is_narrow(model):
        _own_format(model)  # of its dense parts
        stored = stored_packing(parts_of(model))
    if stored is not None and choice in (True, AUTO, stored.weights):
        return stored
    return Packing(_own_format(model) if choice in (True, AUTO) else str(choice))


def _check_quiet(model: Any, parts: TrunkParts) -> None:
    """ConfigError where packing would be in vain from the beginning."""
    if is_listened_to(model, parts):
        raise ConfigError("modules have hooks or another forward, which native decode would not call")


def _owned(parts: TrunkParts) -> int:
    """Bytes of codes and scales that nobody was lent yet."""
    narrow = [linear for linear in linears_of(parts) if isinstance(linear, NarrowLinear)]
    return sum(linear.narrow_bytes for linear in narrow if linear.keeper is None)


def _check_room(model: Any, parts: TrunkParts, packing: Packing, kv_memory: int) -> None:
    """ConfigError where weights, packed weights, keys and values are too much for the memory there is.

    Weights that are still mapped from their files stand in nobody's account and will be read.
    """
    needed = plan(parts, packing).packed + kv_memory
    held, owned = sum(parameter.nbytes for parameter in model.parameters()), _owned(parts)
    is_read = own_memory() >= held
    held -= owned  # given up while it is packed
    have, free = device_memory(torch.device("cpu")), free_memory() - max(0, held - own_memory())
    free += owned if is_read else 0
    if held + needed > LARGEST_SHARE * have or needed > LARGEST_SHARE * free:
        raise ConfigError(
            f"packed weights of {(needed - kv_memory) / 2**30:.1f} GiB do not fit beside {held / 2**30:.1f} "
            f"GiB of the model and {kv_memory / 2**30:.1f} GiB for keys and values: of {have / 2**30:.1f} "
            f"GiB of memory {max(free, 0) / 2**30:.1f} are free, and a fifth is left alone"
        )
