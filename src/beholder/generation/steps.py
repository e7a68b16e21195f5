"""One step for everybody: what is planned is run, tokens are chosen and given out, failures end one request.

One thread at a time; who may step is the engine's business. `arrivals` and `departures` may be added to from
anywhere.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from beholder.core.errors import CapacityError
from beholder.core.types import FinishReason
from beholder.generation.features import Embedder
from beholder.generation.prompt import Prompt
from beholder.generation.request import Request
from beholder.generation.runner import Runner
from beholder.generation.sampling import Chooser, Largest
from beholder.generation.scheduler import Chunk, Scheduler, Task
from beholder.generation.stats import Counts, is_out_of_memory
from beholder.generation.threads import Threads

SHORT = 64  # tokens of a prompt's end that is read together with others
TOGETHER = 16  # of them at once


@dataclass(eq=False)
class Job:
    """Everything of one request: what the caller holds, what is scheduled, what is run, how it is chosen."""

    request: Request
    task: Task
    prompt: Prompt
    chooser: Chooser
    ends: frozenset[int]
    most: int


class Steps:
    """The requests of one engine, and how they get on."""

    def __init__(self, scheduler: Scheduler, runner: Runner, embedder: Embedder, threads: Threads) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.embedder = embedder
        self.threads = threads
        self.counts = Counts()
        self.jobs: dict[Task, Job] = {}
        self.arrivals: deque[Job] = deque()
        self.departures: deque[Request] = deque()
        self._largest = Largest()

    @property
    def has_work(self) -> bool:
        """Somebody comes, goes, waits or runs."""
        return bool(self.arrivals or self.departures or not self.scheduler.is_idle)

    def step(self) -> bool:
        """Run what is planned next; whether there was anything."""
        self.welcome()
        plan = self.scheduler.plan()
        with self.threads.bound():
            for chunks in self._groups(plan.chunks):
                self._read_all([chunk for chunk in chunks if chunk.task in self.jobs])
            self._answer([self.jobs[task] for task in plan.answering if task in self.jobs])
        self.counts.steps += bool(plan.chunks or plan.answering)
        return bool(plan.chunks or plan.answering)

    def welcome(self) -> None:
        """Let arrivals in and those who leave out."""
        while self.arrivals:
            job = self.arrivals.popleft()
            self.jobs[job.task] = job
            self.scheduler.add(job.task)
        if self.departures:
            gone = set()
            while self.departures:
                gone.add(self.departures.popleft())
            for job in [job for job in self.jobs.values() if job.request in gone]:
                self._end(job, "cancelled")

    def _groups(self, chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
        """What is read by itself, in order; then short ends of prompts, those of about one length together.

        Such an end takes one pass over all weights, and several side by side take not much more.
        """
        short = [chunk for chunk in chunks if self._is_short_end(chunk)]
        yield from ([chunk] for chunk in chunks if chunk not in short)
        short.sort(key=lambda chunk: chunk.stop - chunk.start)
        for first in range(0, len(short), TOGETHER):
            yield short[first : first + TOGETHER]

    def _is_short_end(self, chunk: Chunk) -> bool:
        job = self.jobs.get(chunk.task)
        return (
            job is not None
            and chunk.stop == chunk.task.length == job.prompt.length
            and 0 < chunk.start
            and chunk.stop - chunk.start <= SHORT
            and not self.runner.stands_alone(job.prompt)
        )

    def _read_all(self, chunks: Sequence[Chunk]) -> None:
        """Run the short ends of several prompts together. Where that fails each is run by itself."""
        if len(chunks) < 2:
            for chunk in chunks:
                self._read(self.jobs[chunk.task], chunk)
            return
        jobs, begun = [self.jobs[chunk.task] for chunk in chunks], time.perf_counter()
        for job in jobs:
            self._begin(job, begun)
        tower = self.embedder.seconds
        try:
            scores = self.runner.read_together(
                [job.prompt for job in jobs], [job.task.table for job in jobs], [one.start for one in chunks]
            )
        except Exception:
            for chunk in chunks:
                if chunk.task in self.jobs:  # went when another's memory ran out
                    self._read(self.jobs[chunk.task], chunk)
            return
        seconds, seen = time.perf_counter() - begun, self.embedder.seconds - tower
        for job, chunk in zip(jobs, chunks, strict=True):
            job.request.clock.prefill += seconds
            job.request.clock.tower += seen
            self.counts.prompt_tokens += chunk.stop - chunk.start
        self._choose(jobs, scores)

    def _begin(self, job: Job, now: float) -> None:
        clock = job.request.clock
        if clock.started is None:
            clock.started = now
            job.request.cached_tokens = job.task.reused or 0
            self.counts.cached_tokens += job.request.cached_tokens

    def _read(self, job: Job, chunk: Chunk) -> None:
        """Run a part of a prompt; after its end the first token is chosen."""
        clock, start = job.request.clock, time.perf_counter()
        self._begin(job, start)
        tower = self.embedder.seconds
        try:
            is_last = chunk.stop == job.task.length
            scores = self.runner.read(job.prompt, job.task.table, chunk.start, chunk.stop, wanted=is_last)
        except Exception as error:
            self._failed(job, error)
            return
        clock.tower += self.embedder.seconds - tower
        clock.prefill += time.perf_counter() - start
        self.counts.prompt_tokens += chunk.stop - chunk.start
        if scores is None:
            self.scheduler.ran(job.task, chunk.stop)
        else:
            self._choose([job], scores)

    def _answer(self, jobs: list[Job]) -> None:
        """Run the last token of each. Where that fails together it is tried one by one, to find out whose
        fault it is."""
        if not jobs:
            return
        try:
            scores = self.runner.answer([job.prompt for job in jobs], [job.task.table for job in jobs])
        except Exception as error:
            if is_out_of_memory(error) or len(jobs) == 1:
                self._failed(jobs[-1], error)  # those before it go on with the next step
                return
            for job in jobs:
                self._answer([job])
            return
        self._choose(jobs, scores)

    def _choose(self, jobs: list[Job], scores: Any) -> None:
        """One token for each job from its row of (rows, vocabulary) scores."""
        plain = self._largest(scores) if any(job.chooser.is_plain for job in jobs) else []
        for number, job in enumerate(jobs):
            if job.task not in self.jobs:  # went when another's memory ran out
                continue
            token = plain[number] if job.chooser.is_plain else None
            try:
                # A row of no numbers is given to `choose` too, which says so.
                if token is None:
                    token = job.chooser.choose(scores[number : number + 1])
                else:
                    job.chooser.take(token)
            except Exception as error:
                self._failed(job, error)
                continue
            self._give(job, token)

    def _give(self, job: Job, token: int) -> None:
        request, prompt, task, clock = job.request, job.prompt, job.task, job.request.clock
        clock.last = now = time.perf_counter()
        if clock.first is None:
            clock.first = now
        # Only now: a step that is interrupted, by Ctrl-C for example, is run again for whom it gave nothing.
        self.scheduler.ran(task, task.length)
        prompt.ids.append(token)
        self.scheduler.said(task, prompt.row(len(prompt.ids) - 1) if task.content else b"")
        self.counts.answer_tokens += 1
        request.ids.append(token)
        if token in job.ends:
            self._end(job, "stop")
        elif len(request.ids) == job.most:
            self._end(job, "length")

    def _failed(self, job: Job, error: Exception) -> None:
        """End one request with its error. Where memory ran out, the newest goes, whoever's step it was."""
        if is_out_of_memory(error):
            job = max(
                self.jobs.values(), key=lambda one: (one.task in self.scheduler.running, one.task.number)
            )
            shed = CapacityError(
                f"memory ran out with {len(self.scheduler.running)} requests running, and this one came last"
                "; try again later, send smaller pictures, or give the engine less kv_memory"
            )
            traceback.clear_frames(error.__traceback__)  # what they hold is the memory that is wanted
            shed.__cause__ = error
            error = shed
        self._end(job, error)

    def end_all(self, how: FinishReason | BaseException) -> None:
        """End every request alike; nobody comes any more."""
        for job in (*self.jobs.values(), *self.arrivals):
            with suppress(Exception):  # who waits must hear of it also where the bookkeeping is what broke
                self.scheduler.remove(job.task)
            self._tell(job, how)
        self.jobs.clear()
        self.arrivals.clear()
        self.departures.clear()

    def _end(self, job: Job, how: FinishReason | BaseException) -> None:
        self.scheduler.remove(job.task)
        del self.jobs[job.task]
        self._tell(job, how)

    def _tell(self, job: Job, how: FinishReason | BaseException) -> None:
        self.counts.ended(how)
        if isinstance(how, BaseException):
            job.request.error = how
        else:
            job.request.finish_reason = how
