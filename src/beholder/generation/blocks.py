"""Who holds which block of key-value memory, and which blocks hold what another prompt can use again.

A block is a fixed number of token places. This is bookkeeping over numbers: no tensor is touched here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

# What a block is: free, free but kept for a neighbour that grows, in use, or idle with reusable content.
FREE, HOPED, USED, IDLE = range(4)
# Of the time that idle blocks look back on, which part may be given up for a run in one piece, tried in
# turn: a little more is forgotten than must be, so that what is read at every step stands together. Right
# behind a request's own last block less is: what is there is often the same conversation, as it went on.
OLD = (0.125, 0.25, 0.5, 1.0)
OLD_BEHIND = 0.5


class BlockTable:
    """The blocks of one request in order; neighbours in memory make one run, which needs no gathering."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.blocks: list[int] = []
        self._runs: list[list[int]] = []  # [first block, one past the last]

    def extend(self, blocks: Sequence[int]) -> None:
        """Add blocks at the end."""
        for block in blocks:
            if self._runs and self._runs[-1][1] == block:
                self._runs[-1][1] += 1
            else:
                self._runs.append([block, block + 1])
        self.blocks.extend(blocks)

    def clear(self) -> list[int]:
        """Give up all blocks; which they were."""
        blocks, self.blocks, self._runs = self.blocks, [], []
        return blocks

    def place(self, position: int) -> int:
        """Where the token at this position stands."""
        return self.blocks[position // self.size] * self.size + position % self.size

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The places of positions `start` to `stop` as (first, one past the last), as few as there can be."""
        if len(self._runs) == 1:  # nearly always, and asked for every row at every step
            first, last = self._runs[0]
            low, high = first * self.size + max(start, 0), min(first * self.size + stop, last * self.size)
            return [(low, high)] if low < high else []
        found: list[tuple[int, int]] = []
        position = 0  # of the first place of the run
        for first, last in self._runs:
            length = (last - first) * self.size
            low, high = max(start - position, 0), min(stop - position, length)
            if low < high:
                found.append((first * self.size + low, first * self.size + high))
            position += length
            if position >= stop:
                break
        return found


class BlockPool:
    """All blocks. Block 0 belongs to nobody: it stands for the places a shorter row does not have.

    A block whose content has a name (see `Scheduler`) stays when its last user leaves, until the room is
    needed: the least recently used goes first, or neighbours that are nearly as old where these make a run.
    Without `reuse` names are not kept.
    """

    def __init__(self, count: int, *, reuse: bool) -> None:
        self.count = count
        self.reuse = reuse
        self.evicted = 0
        self._states = bytearray([USED] + [FREE] * count)
        self._users = [0] * (count + 1)
        self._free = count
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()  # to when it became so, oldest first
        self._now = 0

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return self._free

    @property
    def idle(self) -> int:
        """Blocks without a user whose content may be used again."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self.count - self._free - len(self._idle)

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest beginning of these contents."""
        found: list[int] = []
        for name in names:
            block = self._named.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def room(self, kept: Sequence[int] = ()) -> int:
        """How many blocks could be had at once while `kept` stay as they are."""
        return self._free + len(self._idle) - sum(block in self._idle for block in kept)

    def hold(self, blocks: Sequence[int]) -> None:
        """One more user for blocks that were found."""
        for block in blocks:
            self._users[block] += 1
            if self._states[block] == IDLE:
                self._states[block] = USED
                del self._idle[block]

    def take(self, count: int, *, after: int | None = None, hope: int = 0) -> list[int]:
        """`count` blocks for one user, in one run if there is one, best right behind the block `after`.

        `hope` blocks behind them are kept for the same user as long as nobody else needs them. There must be
        `room()` for `count`.
        """
        start = self._run_for(count, after, hope)
        if start is None:
            self._evict(count - self._free)
            start = self._free_run(count, spare_hoped=False)
        if start is None:
            blocks = [block for block, state in enumerate(self._states) if state in (FREE, HOPED)][:count]
        else:
            blocks = list(range(start, start + count))
        self._empty(blocks)
        for block in blocks:
            self._states[block] = USED
            self._users[block] = 1
        self._free -= count
        if start is not None:
            self._keep(start + count, hope)
        return blocks

    def release(self, blocks: Sequence[int], hope: int = 0) -> None:
        """A user leaves its blocks, last one first, so that beginnings are reusable for longest."""
        if blocks and hope:
            self._unkeep(blocks[-1] + 1, hope)
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._names:
                self._now += 1
                self._states[block] = IDLE
                self._idle[block] = self._now
            else:
                self._states[block] = FREE
                self._free += 1

    def name(self, block: int, name: bytes) -> None:
        """Say what a full block holds, once. Where another holds the same already, that one stays known."""
        if self.reuse and name not in self._named and block not in self._names:
            self._named[name] = block
            self._names[block] = name

    def forget(self) -> None:
        """Drop all reusable content."""
        self._evict(len(self._idle))
        self._names.clear()
        self._named.clear()

    def _evict(self, count: int) -> None:
        for _ in range(count):
            self._empty([next(iter(self._idle))])

    def _empty(self, blocks: Iterable[int]) -> None:
        """Give up what idle ones among the blocks hold."""
        for block in blocks:
            if self._states[block] == IDLE:
                del self._idle[block]
                del self._named[self._names.pop(block)]
                self._states[block] = FREE
                self._free += 1
                self.evicted += 1

    def _run_for(self, count: int, after: int | None, hope: int) -> int | None:
        """Where a run of `count` begins that costs little of what is idle, None if there is none."""
        if after is not None and self._is_free_behind(after, count):
            return after + 1
        for length in dict.fromkeys((count + hope, count)):
            start = self._free_run(length)
            if start is None and self._idle:
                start = self._old_run(length)
            if start is not None:
                self._empty(range(start, start + length))
                return start
        return None if self._free < count else self._free_run(count, spare_hoped=False)

    def _is_free_behind(self, after: int, count: int) -> bool:
        behind = range(after + 1, after + 1 + count)
        if behind.stop > self.count + 1:
            return False
        latest = self._date(OLD_BEHIND) if self._idle else 0
        return all(
            self._states[block] in (FREE, HOPED) or self._idle.get(block, self._now + 1) <= latest
            for block in behind
        )

    def _date(self, share: float) -> float:
        """When this part was over of the time since the oldest idle block became so."""
        first = next(iter(self._idle.values()))
        return first + share * (self._now - first)

    def _free_run(self, length: int, *, spare_hoped: bool = True) -> int | None:
        states = self._states if spare_hoped else self._states.replace(bytes([HOPED]), bytes([FREE]))
        start = states.find(bytes([FREE]) * length)
        return start if start >= 0 else None

    def _old_run(self, length: int) -> int | None:
        """Where a run of free and old blocks begins, of as old ones as there are."""
        for share in OLD:
            states, latest = bytearray(self._states), self._date(share)
            for block, since in self._idle.items():  # oldest first
                if since > latest:
                    break
                states[block] = FREE
            if (start := states.find(bytes([FREE]) * length)) >= 0:
                return start
        return None

    def _keep(self, start: int, hope: int) -> None:
        for block in range(start, min(start + hope, self.count + 1)):
            if self._states[block] != FREE:
                break
            self._states[block] = HOPED

    def _unkeep(self, start: int, hope: int) -> None:
        for block in range(start, min(start + hope, self.count + 1)):
            if self._states[block] != HOPED:
                break
            self._states[block] = FREE
