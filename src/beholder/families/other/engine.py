"""Runs any model by its own `generate`, one request after the other, behind the face of the `Engine`.

What a model keeps between tokens, how its positions go and what its masks show is its own business here, so
nothing is shared between requests. Every token is chosen by the same rules as everywhere: a logits processor
leaves `generate` only the token that was chosen.
"""

from __future__ import annotations

import copy
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import FinishReason, Sampling
from beholder.generation.request import Request
from beholder.generation.sampling import Chooser, TokenMask
from beholder.generation.stats import Counts, Stats

log = logging.getLogger("beholder")


@dataclass(eq=False)
class Job:
    """One request and all that running it takes."""

    request: Request
    inputs: dict[str, Any]
    sampling: Sampling
    chooser: Chooser
    ends: frozenset[int]


class GenerateEngine:
    """One model, one request at a time, in the order of arrival. May be used from several threads."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.model = model.eval()
        self.kv_bytes_per_token, self.kv_dtype = 0, None
        if settings.get("kv_dtype") is not None:
            raise ConfigError(
                f"{type(model).__name__} runs by its own generate, which keeps keys and values as it does; "
                "leave kv_dtype out"
            )
        self._counts = Counts()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        if settings:
            log.info("%s runs by its own generate; not used: %s", type(model).__name__, ", ".join(settings))

    def submit(
        self,
        inputs: Mapping[str, Any],
        sampling: Sampling,
        terminators: Iterable[int] = (),
        mask: TokenMask | None = None,
    ) -> Request:
        """Queue what the processor made of one conversation; its ids come as they are generated."""
        ids: Tensor = inputs["input_ids"]
        self._check_pictures(inputs)
        chooser = Chooser(sampling, ids[0].tolist(), self.model.device, mask)
        with self._news:
            if self._is_closed:
                raise RuntimeError("the engine is closed")
            self._counts.submitted += 1
            request = Request(self._counts.submitted, self._wait, self._cancel)
            job = Job(request, self._placed(inputs), sampling, chooser, sampling.ends(terminators))
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="beholder-generate", daemon=True)
                self._thread.start()
        return request

    def _check_pictures(self, inputs: Mapping[str, Any]) -> None:
        """Some models describe a picture and can do nothing without one."""
        parameters = inspect.signature(self.model.generate).parameters
        for name in ("pixel_values", "images"):
            wanted = parameters.get(name)
            if wanted is not None and wanted.default is wanted.empty and inputs.get(name) is None:
                raise InputError(f"{type(self.model).__name__} answers only with a picture; give it one")

    def _placed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in inputs.items()
        }

    def _wait(self, request: Request) -> None:
        with self._news:
            self._news.wait_for(lambda: request.has_news)

    def _cancel(self, request: Request) -> None:
        # The garbage collector may call this anywhere, so it does not wait for the token that is being made.
        request.finish_reason = request.finish_reason or "cancelled"
        with self._news:
            self._news.notify_all()

    def _work(self) -> None:
        """Run what waits; the thread ends when nothing does, and a later request starts another."""
        while True:
            with self._news:
                if not self._waiting:
                    self._thread = None
                    self._news.notify_all()
                    return
                job = self._running = self._waiting.popleft()
            try:
                self._run(job)
            except BaseException as error:  # whoever waits for the request is told
                self._end(job, error)
            self._running = None

    def _run(self, job: Job) -> None:
        request = job.request
        if request.is_over:  # closed while it waited
            self._end(job, "cancelled")
            return
        request.clock.started = time.perf_counter()
        self._counts.prompt_tokens += job.inputs["input_ids"].shape[1]
        watch = Watch(self, job)
        with torch.inference_mode():
            self.model.generate(
                **job.inputs,
                generation_config=self._settings(job),
                logits_processor=LogitsProcessorList([watch]),
                stopping_criteria=StoppingCriteriaList([Stop(request)]),
            )
        self._end(job, "cancelled" if request.is_cancelled or self._is_closed else watch.reason)

    def _settings(self, job: Job) -> Any:
        """The model's own settings, greedy: what else the request wants is done where tokens are chosen."""
        settings = copy.deepcopy(self.model.generation_config)
        settings.do_sample, settings.num_beams = False, 1
        settings.temperature = settings.top_k = settings.top_p = None
        settings.max_length, settings.max_new_tokens = None, job.sampling.max_tokens
        settings.eos_token_id = sorted(job.ends) or None
        if settings.pad_token_id is None:
            settings.pad_token_id = min(job.ends, default=0)
        return settings

    def give(self, job: Job, token: int) -> None:
        """One more token for whoever waits."""
        request, now = job.request, time.perf_counter()
        with self._news:
            clock = request.clock
            if clock.first is None:
                clock.first = now
                clock.prefill = now - (clock.started or now)
            clock.last = now
            request.scores = job.chooser.scores
            request.ids.append(token)
            self._counts.answer_tokens += 1
            self._counts.steps += 1
            self._news.notify_all()

    def _end(self, job: Job, how: FinishReason | BaseException) -> None:
        with self._news:
            self._counts.ended(how)
            if isinstance(how, BaseException):
                job.request.error = how
            else:
                job.request.finish_reason = how
            self._news.notify_all()

    def start(self) -> None:
        """Nothing to do: requests run whether they are read or not."""

    def forget(self) -> None:
        """Nothing to do: nothing is kept for later requests."""

    def abort(self, request: Request) -> None:
        """End a request early; the same as `request.close()`."""
        request.close()

    def stats(self) -> Stats:
        """Counts since the start and what runs now; of what this engine does not have there is 0."""
        counts, ends = self._counts, self._counts.ends
        nothing: dict[str, Any] = {field.name: 0 for field in fields(Stats)}
        return Stats(
            **nothing
            | {
                "decode": "pytorch",
                "submitted": counts.submitted,
                "steps": counts.steps,
                "prompt_tokens": counts.prompt_tokens,
                "answer_tokens": counts.answer_tokens,
                "waiting": len(self._waiting),
                "running": int(self._running is not None),
                "finished": ends["stop"] + ends["length"],
                "cancelled": ends["cancelled"],
                "failed": ends["failed"],
            }
        )

    def close(self) -> None:
        """End what waits and runs, as cancelled. Again does nothing."""
        with self._news:
            self._is_closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            for job in jobs:
                job.request.finish_reason = job.request.finish_reason or "cancelled"
            self._news.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


class Watch(LogitsProcessor):
    """Chooses each token, gives it out, and leaves `generate` no other."""

    def __init__(self, engine: GenerateEngine, job: Job) -> None:
        self.engine = engine
        self.job = job
        self.reason: FinishReason = "length"

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(1, vocabulary) scores with one that is not minus infinity."""
        token = self.job.chooser.choose(scores)
        if not self.job.request.is_over:
            if token in self.job.ends:
                self.reason = "stop"
            self.engine.give(self.job, token)
        only = torch.full_like(scores, float("-inf"))
        only[:, token] = 0
        return only  # type: ignore[return-value]


class Stop(StoppingCriteria):
    """Ends `generate` where the request was closed."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> Any:
        """(rows,) whether each row is done."""
        over = self.request.is_over or self.request.is_cancelled
        return torch.full((input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device)
