"""Who runs when: first come first served, in pieces, within the room there is."""

from __future__ import annotations

import random

import pytest

from beholder import CapacityError
from beholder.generation.blocks import BlockPool
from beholder.generation.scheduler import Content, Plan, Scheduler, Task

SIZE = 4


def scheduler(blocks: int = 100, *, reuse: bool = True, chunk: int = 8, idle_chunk: int = 16, most: int = 8):
    pool = BlockPool(blocks, reuse=reuse)
    return Scheduler(pool, SIZE, chunk=chunk, idle_chunk=idle_chunk, most_running=most)


def task(number: int, text: str, answer: int = 4, **more) -> Task:
    return Task(number, len(text), len(text) + answer - 1, Content(text.encode(), 1), **more)


def run(one: Scheduler, plan: Plan) -> list[tuple[int, int, int]]:
    """Do what the plan says; each prompt that is read to its end and each answer get a token."""
    told = []
    for chunk in plan.chunks:
        told.append((chunk.task.number, chunk.start, chunk.stop))
        one.ran(chunk.task, chunk.stop)
        if chunk.stop == chunk.task.length:
            one.said(chunk.task, b".")
    for answering in plan.answering:
        told.append((answering.number, answering.length - 1, answering.length))
        one.ran(answering, answering.length)
        one.said(answering, b".")
    return told


def test_prompts_are_read_in_pieces_and_answers_go_on_meanwhile():
    one = scheduler(reuse=False)
    one.add(task(1, "abc"))
    assert run(one, one.plan()) == [(1, 0, 3)]
    one.add(task(2, "x" * 20))
    assert run(one, one.plan()) == [(2, 0, 8), (1, 3, 4)]
    assert run(one, one.plan()) == [(2, 8, 16), (1, 4, 5)]
    assert run(one, one.plan()) == [(2, 16, 20), (1, 5, 6)]
    assert run(one, one.plan()) == [(1, 6, 7), (2, 20, 21)]


def test_more_is_read_while_nobody_answers():
    one = scheduler(reuse=False)
    one.add(task(1, "x" * 20))
    assert run(one, one.plan()) == [(1, 0, 16)]


def test_a_piece_is_shared_in_order_of_arrival():
    one = scheduler(reuse=False)
    for number in (1, 2, 3):
        one.add(task(number, "x" * 10))
    assert run(one, one.plan()) == [(1, 0, 10), (2, 0, 6)]


def test_what_cannot_be_cut_is_read_at_once():
    one = scheduler(reuse=False)
    one.add(task(1, "x" * 40, whole=True))
    assert run(one, one.plan()) == [(1, 0, 40)]


def test_no_more_than_may_run():
    one = scheduler(most=2, reuse=False)
    for number in (1, 2, 3):
        one.add(task(number, "abc"))
    assert [number for number, *_ in run(one, one.plan())] == [1, 2]
    one.remove(one.running[0])
    assert 3 in [number for number, *_ in run(one, one.plan())]


def test_nobody_overtakes_who_waits_for_room():
    one = scheduler(blocks=6, reuse=False)
    one.add(task(1, "x" * 12))
    run(one, one.plan())
    one.add(task(2, "y" * 16))
    one.add(task(3, "z"))
    run(one, one.plan())
    assert [waiting.number for waiting in one.waiting] == [2, 3]


def test_what_can_never_fit_is_refused():
    one = scheduler(blocks=4)
    with pytest.raises(CapacityError, match=r"for 17 tokens and there is room for 16.*max_tokens.*kv_memory"):
        one.add(task(1, "x" * 10, answer=8))
    one.add(task(2, "x" * 10, answer=7))


def test_the_newest_steps_back_and_comes_again():
    one = scheduler(blocks=6, reuse=False)
    one.add(task(1, "a" * 8, answer=10))
    one.add(task(2, "b" * 7, answer=10))
    run(one, one.plan())
    first, second = one.running
    for _ in range(12):
        if one.waiting:
            break
        run(one, one.plan())
    assert one.waiting == [second]
    assert (one.preemptions, second.computed, second.table.blocks) == (1, 0, [])
    length = second.length
    one.remove(first)
    assert run(one, one.plan()) == [(2, 0, length)]


def test_a_beginning_is_used_again_but_for_the_last_token():
    one = scheduler()
    one.add(task(1, "a picture, and what?"))
    run(one, one.plan())
    run(one, one.plan())
    one.remove(one.running[0])
    one.add(task(2, "a picture, and what?"))
    assert run(one, one.plan()) == [(2, 16, 20)]
    assert one.running[0].reused == 16
    one.add(task(3, "a picture, and who was that?"))
    assert run(one, one.plan())[0] == (3, 16, 24)


def test_an_answer_is_used_again_in_the_next_turn():
    one = scheduler()
    one.add(task(1, "Why?" * 2, answer=9))
    for _ in range(8):
        run(one, one.plan())
    one.remove(one.running[0])
    one.add(task(2, "Why?" * 2 + "." * 8 + "Oh"))
    assert run(one, one.plan()) == [(2, 12, 18)]


def test_who_reads_the_same_waits_and_lets_others_pass():
    one = scheduler(chunk=8, idle_chunk=8)
    for number, text in ((1, "same" * 4 + "a"), (2, "same" * 4 + "b"), (3, "other")):
        one.add(task(number, text))
    assert run(one, one.plan()) == [(1, 0, 8)]
    assert [running.number for running in one.running] == [1, 3]
    told = [step for _ in range(4) for step in run(one, one.plan())]
    assert (2, 16, 17) in told
    assert one.pool.used < 4 + 5 + 4


def test_what_was_begun_before_forgetting_is_never_used_again():
    """Its later blocks would stand on what is gone, and be found under the same names."""
    one = scheduler()
    one.add(task(1, "a picture", answer=12))
    run(one, one.plan())
    one.forget()
    assert one.pool.idle == 0
    while one.running:
        run(one, one.plan())
        if one.running[0].length == 20:
            one.remove(one.running[0])
    assert one.pool.find(Content(b"a picture" + b"." * 11, 1).named(5, SIZE)) == []
    assert (one.pool.used, one.pool.idle) == (0, 0)


def test_removing_twice_and_unknown_tasks():
    one = scheduler()
    here, never = task(1, "abc"), task(2, "abc")
    one.add(here)
    run(one, one.plan())
    for gone in (here, here, never):
        one.remove(gone)
    assert one.is_idle
    assert one.pool.used == 0


@pytest.mark.parametrize(("blocks", "together"), [(60, 1), (120, 4), (500, 8)])
def test_a_long_life_does_not_scatter_what_is_stored(blocks, together):
    """Once memory is full of what was kept, newcomers still stand in one run, behind a beginning that is used
    again in two; and that beginning is not what is given up for it."""
    chance, one = random.Random(0), scheduler(blocks=blocks, chunk=64, idle_chunk=512, most=32)
    number, pieces, reused = 0, list[int](), list[int]()
    while number < 300 or not one.is_idle:
        while number < 300 and len(one.running) + len(one.waiting) < together:
            number += 1
            own = "".join(chance.choices("abcdefgh", k=chance.randrange(10, 60)))
            one.add(task(number, "hot " * 4 * (number % 2) + own, answer=chance.randrange(4, 40)))
        run(one, one.plan())
        for other in one.running:
            if number > 150:
                pieces.append(len(other.table.ranges(0, other.length)))
        for done in [other for other in one.running if other.length > other.limit]:
            reused.append(done.reused or 0)
            one.remove(done)
    assert one.pool.evicted > 500
    assert sum(pieces) / len(pieces) < 1.8
    assert sorted(pieces)[len(pieces) * 19 // 20] <= 3
    assert sum(count >= 16 for count in reused) > 0.85 * 150
