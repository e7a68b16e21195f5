"""Runs one model for many requests at once: they join and leave between steps, each answered as if alone.

Whoever waits for a token runs the next step for everybody; `start()` adds a thread that runs steps while
there is anything to do. Takes tensors, gives token ids.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from transformers import PreTrainedModel

from beholder.core.errors import ConfigError
from beholder.core.types import Sampling
from beholder.generation.blocks import BlockPool
from beholder.generation.cache import Geometry, Store, default_memory
from beholder.generation.features import Embedder, FeatureCache
from beholder.generation.native.decode import AUTO, NativeDecode
from beholder.generation.packed import PackedWeights
from beholder.generation.prompt import read_prompt
from beholder.generation.request import Request
from beholder.generation.runner import Runner
from beholder.generation.sampling import Chooser, TokenMask
from beholder.generation.scheduler import Scheduler, Task
from beholder.generation.stats import Stats
from beholder.generation.steps import Job, Steps
from beholder.generation.threads import Threads

log = logging.getLogger("beholder")


class Engine:
    """Continuous batching over one transformers image-text model. May be used from several threads.

    `kv_memory` bytes hold keys and values in blocks of `block` tokens (left out: room for 16 whole contexts,
    at most a quarter of the memory), in the model's number format or, with `kv_dtype` "int8", in whole
    numbers of 8 bits, see `Kept`. While answers stream, a step reads at most `chunk` prompt tokens, else
    `idle_chunk`. `prefix_cache` keeps what was computed for later prompts that begin alike, `picture_memory`
    bytes keep picture features; False and 0 switch them off. `packed_memory` bytes hold second copies of
    weights for faster steps on the CPU, 0 for none, see `PackedWeights`; `threads` bounds the threads of a
    step. `native`: see `NativeDecode.open`; left out, "auto", unless `direct`, `compile` or `packed_memory`
    is given, which is about PyTorch's ways. `direct` and `compile`: see `Runner`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        kv_memory: int | None = None,
        kv_dtype: str | None = None,
        block: int = 16,
        chunk: int = 256,
        idle_chunk: int = 2048,
        most_running: int = 32,
        prefix_cache: bool = True,
        picture_memory: int = 256 * 2**20,
        packed_memory: int | None = None,
        threads: int | None = None,
        native: bool | str | None = None,
        direct: bool | None = None,
        compile: str | None = None,
    ) -> None:
        self.model = model.eval()
        self.kv_dtype = kv_dtype
        geometry = Geometry.of(model, kv_dtype)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", 2048)
        memory = default_memory(geometry, context, model.device) if kv_memory is None else kv_memory
        self.kv_bytes_per_token = geometry.bytes_per_token
        if geometry.in_bytes:
            log.info("keys and values are kept in %s: %d bytes a token", kv_dtype, self.kv_bytes_per_token)
        blocks = memory // (self.kv_bytes_per_token * block) - 1  # one is the null block
        if min(blocks, block, chunk, idle_chunk, most_running) < 1:
            raise ConfigError(
                f"kv_memory {memory}, block {block}, chunk {chunk}, idle_chunk {idle_chunk} and most_running "
                f"{most_running} leave nothing to run with; each must be at least 1, and kv_memory two "
                f"blocks of {self.kv_bytes_per_token * block} bytes"
            )
        self._pool = BlockPool(blocks, reuse=prefix_cache)
        scheduler = Scheduler(
            self._pool, block, chunk=chunk, idle_chunk=idle_chunk, most_running=most_running
        )
        if picture_memory < 0 or (packed_memory or 0) < 0:
            raise ConfigError(
                f"picture_memory {picture_memory} and packed_memory {packed_memory} are numbers of bytes; "
                "0 keeps nothing"
            )
        self._pictures = FeatureCache(picture_memory)
        bound = Threads(threads)
        if native is None:
            native = AUTO if compile is direct is packed_memory is None else False
        if compile is not None and native:
            raise ConfigError("native and compile are two ways to decode; leave one out")
        if compile is not None and packed_memory is None:
            packed_memory = 0  # compiled steps have their own way with weights
        own = NativeDecode.open(model, native, kv_memory=memory, threads=threads)
        taken, spared = (memory + own.bytes, own.linears) if own else (memory, ())
        self._packed = PackedWeights(model, packed_memory, taken, spared=spared)
        embedder = Embedder(model, self._pictures, self._packed)
        store = Store(geometry, (blocks + 1) * block, block, model.device)
        runner = Runner(model, store, embedder, self._packed, own, direct=direct, compiled=compile)
        self._steps = Steps(scheduler, runner, embedder, bound)
        self._digests = prefix_cache or picture_memory > 0
        self._turn = threading.Lock()  # who holds it runs the model
        self._news = threading.Condition()  # tokens came, requests came, the turn is free, the end is near
        self._thread: threading.Thread | None = None
        self._closed: BaseException | None = None

    def submit(
        self,
        inputs: Mapping[str, Any],
        sampling: Sampling,
        terminators: Iterable[int] = (),
        mask: TokenMask | None = None,
    ) -> Request:
        """Queue what the processor made of one conversation (one row); see `Request` for what comes of it.

        `mask` tells which tokens may come next. CapacityError if the request can never fit `kv_memory`.
        """
        prompt = read_prompt(self.model, inputs, digests=self._digests)
        limit = prompt.length + sampling.max_tokens - 1  # the last token is never run
        self._steps.scheduler.check(limit)
        chooser = Chooser(sampling, prompt.ids, self.model.device, mask)
        content = prompt.content() if self._pool.reuse else None
        with self._news:
            if self._closed is not None:
                raise RuntimeError("the engine is closed") from self._closed
            number = self._steps.counts.submitted = self._steps.counts.submitted + 1
            request = Request(number, self._advance, self._cancel)
            request.scores = chooser.scores
            task = Task(number, prompt.length, limit, content, whole=bool(prompt.whole))
            self._steps.arrivals.append(
                Job(request, task, prompt, chooser, sampling.ends(terminators), sampling.max_tokens)
            )
            self._news.notify_all()
        return request

    def stream(
        self, inputs: Mapping[str, Any], sampling: Sampling, terminators: Iterable[int] = ()
    ) -> Generator[int]:
        """The new ids of one request, one by one. Closing the iterator cancels the request."""
        request = self.submit(inputs, sampling, terminators)
        try:
            yield from request
        finally:
            request.close()

    def abort(self, request: Request) -> None:
        """End a request early; the same as `request.close()`."""
        request.close()

    def step(self) -> bool:
        """Run one step for everybody; whether there was anything to do."""
        with self._turn:
            worked = self._steps.step()
        with self._news:
            self._news.notify_all()
        return worked

    def stats(self) -> Stats:
        """Counts since the start and what is held now."""
        return Stats.of(
            self._steps.counts,
            self._steps.scheduler,
            self._pictures,
            self._steps.embedder,
            self._packed,
            self._steps.runner.store,
            self._steps.runner.native,
        )

    def forget(self) -> None:
        """Drop everything kept for reuse, for example after the weights have changed."""
        with self._turn:
            self._steps.scheduler.forget()
            self._pictures.forget()
            self._packed.forget()
            self._steps.runner.forget()

    @property
    def is_closed(self) -> bool:
        """Nothing can be asked any more: it was closed, or its thread died."""
        return self._closed is not None

    def start(self) -> None:
        """Let a thread run the steps, also when nobody waits for a token. Again does nothing."""
        with self._news:
            if self._closed is not None:
                raise RuntimeError("the engine is closed") from self._closed
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="beholder-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End all requests as cancelled and the thread with them. Again does nothing."""
        with self._news:
            if self._closed is None:
                self._closed = RuntimeError("it was closed")
            thread = self._thread
            self._news.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._turn:
            self._steps.end_all("cancelled")
            self._packed.forget()
            self._steps.runner.release()
        with self._news:
            self._news.notify_all()

    def _advance(self, request: Request) -> None:
        """Return when there is news for a request: run steps, or wait for whoever runs them."""
        while not request.has_news:
            if self._thread is None and self._turn.acquire(blocking=False):
                try:
                    if not request.has_news:
                        self._steps.step()
                finally:
                    self._turn.release()
                    with self._news:
                        self._news.notify_all()
                continue
            with self._news:
                self._news.wait_for(
                    lambda: request.has_news or (self._thread is None and not self._turn.locked())
                )

    def _cancel(self, request: Request) -> None:
        """May be called by the garbage collector anywhere, so it never waits for a step to end."""
        self._steps.departures.append(request)
        if self._turn.acquire(blocking=False):
            try:
                self._steps.welcome()
            finally:
                self._turn.release()
        with self._news:
            self._news.notify_all()

    def _run(self) -> None:
        """The thread. If it dies, everybody who waits is told."""
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._closed is not None or self._steps.has_work)
                    if self._closed is not None:
                        return
                self.step()
        except BaseException as error:
            with self._news:  # where requests come in: each came before this and is told, or is refused
                self._closed = error
            with self._turn:
                self._steps.end_all(error)
            with self._news:
                self._news.notify_all()
