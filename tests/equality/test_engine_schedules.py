"""Whatever the order in which requests come, go, wait and step back: each is answered as if alone."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.equality.engine_cases import BLOCK, LENGTH, PROMPTS, SAMPLINGS, alone, memory, model, prompt, rest

from beholder.generation.engine import Engine


@dataclass(frozen=True)
class Visit:
    """One request: which, after how many steps it comes, and after how many more it leaves."""

    name: str
    sampling: int
    comes: int
    leaves: int | None


visits = st.builds(
    Visit,
    st.sampled_from(PROMPTS),
    st.integers(0, len(SAMPLINGS) - 1),
    st.integers(0, 6),
    st.none() | st.integers(0, 6),
)
engines = st.fixed_dictionaries(
    {
        "chunk": st.sampled_from([1, 3, 8, 50]),
        "idle_chunk": st.sampled_from([2, 9, 50]),
        "most_running": st.integers(1, 4),
        "prefix_cache": st.booleans(),
        "picture_memory": st.sampled_from([0, 5000, 10**6]),
        "direct": st.booleans(),
    }
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(plan=st.lists(visits, min_size=1, max_size=4), setting=engines, spare=st.integers(0, 12))
def test_a_random_schedule(plan: list[Visit], setting: dict, spare: int):
    longest = max(prompt(visit.name)["input_ids"].shape[1] for visit in plan) + LENGTH - 1
    blocks = -(-longest // BLOCK) + spare
    engine = Engine(model(), block=BLOCK, kv_memory=memory(blocks), **setting)
    requests = {}
    for now in range(14):
        for number, visit in enumerate(plan):
            if visit.comes == now:
                requests[number] = engine.submit(prompt(visit.name), SAMPLINGS[visit.sampling])
            if visit.leaves is not None and visit.comes + visit.leaves == now:
                engine.abort(requests[number])
        engine.step()
    for number, visit in enumerate(plan):
        wanted, got = alone(visit.name, visit.sampling), rest(requests[number])
        assert got == (wanted[: len(got)] if requests[number].is_cancelled else wanted)
    engine.step()
    stats = engine.stats()
    assert (stats.blocks_used, stats.running, stats.waiting) == (0, 0, 0)
    assert stats.finished + stats.cancelled == len(plan)
