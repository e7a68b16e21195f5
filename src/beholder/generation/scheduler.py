"""Decides what runs next: who is admitted, which part of which prompt is read, who has to step back.

Requests come first come, first served. Bookkeeping over numbers alone: no tensor, no model, no clock.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from beholder.core.errors import CapacityError
from beholder.generation.blocks import BlockPool, BlockTable


class Content:
    """What stands at each position of a request, as bytes: equal bytes up to a block's end, equal block.

    `rows` holds `width` bytes per token; `append` adds what the model said.
    """

    def __init__(self, rows: bytes, width: int) -> None:
        self.rows = bytearray(rows)
        self.width = width
        self.names: list[bytes] = []

    def append(self, row: bytes) -> None:
        """One more token."""
        self.rows += row

    def named(self, count: int, size: int) -> list[bytes]:
        """The names of the first `count` blocks: each is a digest of everything up to its end."""
        step = size * self.width
        for number in range(len(self.names), count):
            before = self.names[-1] if self.names else b""
            block = bytes(self.rows[number * step : (number + 1) * step])
            self.names.append(hashlib.blake2b(before + block, digest_size=16).digest())
        return self.names[:count]


@dataclass(eq=False)
class Task:
    """One request as the scheduler sees it; lengths in tokens.

    `length` counts prompt and answer so far, `computed` those whose keys and values are stored, `limit` how
    many will have to be stored at most; `reused` of them were found stored, and the first `known` blocks have
    names. A prompt that cannot be cut (`whole`) is read at once. Without `content` nothing of it is used
    again.
    """

    number: int
    length: int
    limit: int
    content: Content | None = None
    whole: bool = False
    computed: int = 0
    reused: int | None = None
    known: int = 0
    hope: int = 0
    table: BlockTable = field(default_factory=lambda: BlockTable(1))
    prompt: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = self.length

    @property
    def remaining(self) -> int:
        """Tokens that the model has not seen yet."""
        return self.length - self.computed

    @property
    def is_answering(self) -> bool:
        """The prompt is read, and only the last chosen token is to be run."""
        return self.length - self.computed == 1 and self.length > self.prompt


@dataclass(frozen=True)
class Chunk:
    """A part of a prompt to read: positions `start` to `stop`."""

    task: Task
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """One step: parts of prompts, then one token for each of those that answer."""

    chunks: tuple[Chunk, ...]
    answering: tuple[Task, ...]


class Scheduler:
    """Waiting and running requests over one pool of blocks of `size` tokens.

    A step reads at most `chunk` prompt tokens while others answer, and `idle_chunk` while nobody does.
    """

    def __init__(self, pool: BlockPool, size: int, *, chunk: int, idle_chunk: int, most_running: int) -> None:
        self.pool = pool
        self.size = size
        self.chunk = chunk
        self.idle_chunk = idle_chunk
        self.most_running = most_running
        self.waiting: list[Task] = []
        self.running: list[Task] = []
        self.preemptions = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is left to do."""
        return not self.waiting and not self.running

    def check(self, limit: int) -> None:
        """Refuse what can never fit: `limit` tokens of one request."""
        room = self.pool.count * self.size
        if limit > room:
            raise CapacityError(
                f"prompt and answer may need key-value memory for {limit} tokens and there is room for {room}"
                "; lower max_tokens, shorten the prompt, or give the engine more kv_memory"
            )

    def add(self, task: Task) -> None:
        """Take a new request in."""
        self.check(task.limit)
        task.table = BlockTable(self.size)
        insort(self.waiting, task, key=_arrival)

    def remove(self, task: Task) -> None:
        """A request is over, whatever its state; removing it twice does nothing."""
        if task in self.running:
            self.running.remove(task)
            self._release(task)
        elif task in self.waiting:
            self.waiting.remove(task)

    def plan(self) -> Plan:
        """What to run now. Blocks for it are held when this returns."""
        self._admit()
        answering: list[Task] = []
        for task in tuple(self.running):
            # Who had to step back meanwhile does not answer: all of it is to be computed again.
            if task.is_answering and self._make_room(task):
                answering.append(task)
        if len(answering) == len(self.running):
            return Plan((), tuple(answering))
        return Plan(tuple(self._chunks(self.chunk if answering else self.idle_chunk)), tuple(answering))

    def ran(self, task: Task, stop: int) -> None:
        """Keys and values are stored up to `stop`."""
        task.computed = stop

    def said(self, task: Task, row: bytes) -> None:
        """One more token was chosen; `row` is what `Content` keeps of it.

        So the scores were sound, and what was stored for them may be used by others: broken numbers in a
        picture reach the keys and values of tokens that stand before it.
        """
        if task.content is not None and self.pool.reuse:
            full = task.computed // self.size
            if full > task.known:
                names = task.content.named(full, self.size)
                for number in range(task.known, full):
                    self.pool.name(task.table.blocks[number], names[number])
                task.known = full
            task.content.append(row)
        task.length += 1

    def forget(self) -> None:
        """Drop what was kept for reuse; nothing of requests that run will be kept, for they began before."""
        self.pool.forget()
        for task in self.running:
            task.content = None

    def _chunks(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        for task in self.running:
            if task.is_answering or budget <= 0:
                continue
            count = task.remaining if task.whole else min(task.remaining, budget)
            chunks.append(Chunk(task, task.computed, task.computed + count))
            budget -= count
        return chunks

    def _admit(self) -> None:
        """Let in who fits. Nobody overtakes one that waits for room; one that waits for a neighbour to read
        the same prompt lets others pass."""
        if not self.waiting:
            return
        read_now = self._being_read()
        for task in tuple(self.waiting):
            if len(self.running) >= self.most_running:
                return
            names = self._reusable_names(task)
            found = self.pool.find(names)
            if len(found) < len(names) and names[len(found)] in read_now:
                continue
            need = self._blocks(task.length) - len(found)
            # One block for each neighbour, so that the next step does not throw somebody out again.
            if self.running and need + len(self.running) > self.pool.room(found):
                return
            self._start(task, found, need)
            read_now |= set(names[len(found) :])

    def _being_read(self) -> set[bytes]:
        """Contents that will be known when running requests have read their prompts."""
        names: set[bytes] = set()
        for task in self.running:
            if not task.is_answering:
                names.update(self._reusable_names(task))
        return names

    def _reusable_names(self, task: Task) -> Sequence[bytes]:
        """Names of the full blocks of a request; its last token is always run, for its scores are needed."""
        if task.content is None or not self.pool.reuse:
            return ()
        return task.content.named((task.length - 1) // self.size, self.size)

    def _start(self, task: Task, found: list[int], need: int) -> None:
        self.pool.hold(found)
        task.known = len(found)
        task.table.extend(found)
        task.computed = len(found) * self.size
        if task.reused is None:  # after stepping back it finds its own blocks: that saved nobody anything
            task.reused = task.computed
        task.hope = self._blocks(max(task.limit, task.length)) - self._blocks(task.length)
        after = found[-1] if found else None
        task.table.extend(self.pool.take(need, after=after, hope=task.hope))
        self.waiting.remove(task)
        insort(self.running, task, key=_arrival)

    def _make_room(self, task: Task) -> bool:
        """A place for one more token; whoever came last steps back until there is one."""
        if len(task.table.blocks) * self.size >= task.length:
            return True
        while not self.pool.room():
            victim = self.running[-1]
            self._preempt(victim)
            if victim is task:
                return False
        task.hope = max(task.hope - 1, 0)
        task.table.extend(self.pool.take(1, after=task.table.blocks[-1], hope=task.hope))
        return True

    def _preempt(self, task: Task) -> None:
        """Give the blocks back; the request is read again later, from what is then still stored of it."""
        self.running.remove(task)
        self._release(task)
        task.computed = 0
        self.preemptions += 1
        insort(self.waiting, task, key=_arrival)

    def _release(self, task: Task) -> None:
        self.pool.release(task.table.clear(), task.hope)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.size)


def _arrival(task: Task) -> int:
    return task.number
