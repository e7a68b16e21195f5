"""Blocks of key-value memory: who holds which, what stays for others, what goes first."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from beholder.generation.blocks import BlockPool, BlockTable


def test_neighbouring_blocks_are_one_range():
    table = BlockTable(4)
    table.extend([3, 4, 5])
    table.extend([9])
    assert table.ranges(0, 14) == [(12, 24), (36, 38)]
    assert table.ranges(5, 9) == [(17, 21)]
    assert table.ranges(11, 13) == [(23, 24), (36, 37)]
    assert [table.place(position) for position in (0, 11, 12)] == [12, 23, 36]
    assert table.clear() == [3, 4, 5, 9]
    assert table.ranges(0, 4) == []


@pytest.mark.parametrize("blocks", [[], [3], [3, 4, 5], [5, 4, 3], [2, 3, 7, 8, 6]])
def test_ranges_are_the_places_of_the_positions(blocks: list[int]):
    """Also of tables in one run, which take a shorter way, and beyond either end."""
    table = BlockTable(3)
    table.extend(blocks)
    length = 3 * len(blocks)
    for start in range(-1, length + 2):
        for stop in range(start, length + 3):
            ranges = table.ranges(start, stop)
            found = [place for first, last in ranges for place in range(first, last)]
            assert found == [table.place(at) for at in range(max(start, 0), min(stop, length))]
            assert all(one[1] != other[0] for one, other in pairwise(ranges))


def test_a_request_grows_in_one_run_beside_another():
    pool = BlockPool(12, reuse=False)
    one = pool.take(2, hope=3)
    two = pool.take(2, hope=3)
    for _ in range(3):
        one += pool.take(1, after=one[-1], hope=1)
        two += pool.take(1, after=two[-1], hope=1)
    assert one == list(range(one[0], one[0] + 5))
    assert two == list(range(two[0], two[0] + 5))


def test_hope_gives_way_to_need():
    pool = BlockPool(6, reuse=False)
    pool.take(1, hope=5)
    assert pool.room() == 5
    assert len(pool.take(5)) == 5
    assert pool.room() == 0


def test_what_has_a_name_is_found_until_the_room_is_needed():
    pool = BlockPool(4, reuse=True)
    held = pool.take(3)
    for block, name in zip(held, (b"a", b"b", b"c"), strict=True):
        pool.name(block, name)
    assert pool.find([b"a", b"b", b"x", b"c"]) == held[:2]
    pool.release(held)
    assert (pool.free, pool.idle, pool.used) == (1, 3, 0)
    pool.take(2)
    # The end of the prompt went first.
    assert pool.find([b"a", b"b", b"c"]) == held[:2]
    assert pool.evicted == 1


def test_the_least_recently_used_goes_first():
    pool = BlockPool(2, reuse=True)
    for name in (b"old", b"new"):
        (block,) = pool.take(1)
        pool.name(block, name)
        pool.release([block])
    (old,) = pool.find([b"old"])
    pool.hold([old])
    pool.release([old])
    pool.take(1)
    assert pool.find([b"old"]) == [old]
    assert pool.find([b"new"]) == []


def test_a_shared_block_stays_while_one_holds_it():
    pool = BlockPool(2, reuse=True)
    held = pool.take(1)
    pool.name(held[0], b"a")
    pool.hold(held)
    pool.release(held)
    assert pool.used == 1
    assert pool.room(held) == 1
    pool.release(held)
    assert pool.used == 0
    assert pool.room() == 2
    assert pool.room(held) == 1


def test_without_reuse_nothing_stays():
    pool = BlockPool(2, reuse=False)
    held = pool.take(2)
    pool.name(held[0], b"a")
    pool.release(held)
    assert (pool.free, pool.idle) == (2, 0)


def test_forgetting_leaves_what_is_in_use():
    pool = BlockPool(3, reuse=True)
    held = pool.take(2)
    pool.name(held[0], b"a")
    pool.name(held[1], b"b")
    pool.release(held[1:])
    pool.forget()
    assert pool.find([b"a"]) == []
    pool.release(held[:1])
    assert (pool.free, pool.idle) == (3, 0)


def test_no_block_is_lost_or_given_twice():
    """Over a long random life every block is with its users, idle or free."""
    chance = random.Random(0)
    pool = BlockPool(20, reuse=True)
    users: list[tuple[list[int], int]] = []
    for step in range(3000):
        hope = chance.randrange(4)
        if users and chance.random() < 0.5:
            blocks, hoped = users.pop(chance.randrange(len(users)))
            pool.release(blocks, hoped)
        elif pool.room() >= (count := chance.randrange(1, 7)):
            known = pool.find([b"%d" % chance.randrange(30)])
            pool.hold(known)
            blocks = known + (pool.take(count, hope=hope) if pool.room() >= count else [])
            pool.name(blocks[-1], b"%d" % (step % 30))
            users.append((blocks, hope))
        held = {block for blocks, _ in users for block in blocks}
        assert 0 not in held
        assert pool.used == len(held)
        assert pool.free + pool.idle + pool.used == 20
    for blocks, hope in users:
        pool.release(blocks, hope)
    assert pool.used == 0
