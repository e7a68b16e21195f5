"""What an engine has done and holds, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch

from beholder.core.types import FinishReason
from beholder.generation.cache import Store
from beholder.generation.features import Embedder, FeatureCache
from beholder.generation.native.decode import NativeDecode
from beholder.generation.packed import PackedWeights
from beholder.generation.scheduler import Scheduler


@dataclass
class Counts:
    """Counted since the start. Of the prompt tokens only those that the model ran over."""

    submitted: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    ends: Counter[str] = field(default_factory=Counter[str])

    def ended(self, how: FinishReason | BaseException) -> None:
        """One request is over."""
        self.ends["failed" if isinstance(how, BaseException) else how] += 1


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A snapshot. Blocks and bytes are those of keys and values unless the name says pictures or weights.

    `decode` is what runs rows that answer: "pytorch", or "native" with its number format and kernels;
    `native_seconds` are those inside native steps since the weights were packed last.
    """

    submitted: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    waiting: int
    running: int
    finished: int
    cancelled: int
    failed: int
    preemptions: int
    blocks: int
    blocks_used: int
    blocks_reusable: int
    blocks_evicted: int
    bytes_per_token: int
    bytes_total: int
    bytes_held: int
    pictures_run: int
    picture_hits: int
    picture_misses: int
    picture_bytes: int
    packed_weights: int
    packed_bytes: int
    native_bytes: int
    native_seconds: float
    decode: str

    @classmethod
    def of(
        cls,
        counts: Counts,
        scheduler: Scheduler,
        pictures: FeatureCache,
        embedder: Embedder,
        packed: PackedWeights,
        store: Store,
        native: NativeDecode | None,
    ) -> Stats:
        """Collect it."""
        per_token = store.geometry.bytes_per_token
        pool, ends = scheduler.pool, counts.ends
        return cls(
            submitted=counts.submitted,
            steps=counts.steps,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            answer_tokens=counts.answer_tokens,
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            finished=ends["stop"] + ends["length"],
            cancelled=ends["cancelled"],
            failed=ends["failed"],
            preemptions=scheduler.preemptions,
            blocks=pool.count,
            blocks_used=pool.used,
            blocks_reusable=pool.idle,
            blocks_evicted=pool.evicted,
            bytes_per_token=per_token,
            bytes_total=(pool.count + 1) * scheduler.size * per_token,
            pictures_run=embedder.pictures_run,
            picture_hits=pictures.hits,
            picture_misses=pictures.misses,
            bytes_held=store.bytes,
            picture_bytes=pictures.bytes,
            packed_weights=packed.count,
            packed_bytes=packed.bytes,
            native_bytes=native.bytes if native else 0,
            native_seconds=native.seconds if native else 0.0,
            decode=str(native or "pytorch"),
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory ran out, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
