"""Whatever the order in which requests come, go, fail, wait and step back: each is answered as if alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.equality.engine_cases import BLOCK, LENGTH, SAMPLINGS, WAYS
from tests.equality.engine_subjects import SUBJECTS, Subject, memory, whole_length

from beholder.generation.engine import Engine

# 200 schedules together.
COUNTS = {"qh360vl": 55, "llava": 55, "internvl": 30, "cogvlm": 25, "mini": 35}


@dataclass(frozen=True)
class Visit:
    """One request: which, after how many steps it comes, after how many more it leaves, after how many tokens
    its grammar fails."""

    name: str
    sampling: int
    comes: int
    leaves: int | None
    breaks: int | None


def visits(names: Sequence[str]) -> st.SearchStrategy[Visit]:
    return st.builds(
        Visit,
        st.sampled_from(names),
        st.integers(0, len(SAMPLINGS) - 1),
        st.integers(0, 6),
        st.none() | st.integers(0, 6),
        st.none() | st.none() | st.integers(0, LENGTH - 1),
    )


engines = st.fixed_dictionaries(
    {
        "chunk": st.sampled_from([1, 3, 8, 50]),
        "idle_chunk": st.sampled_from([2, 9, 50, 1000]),
        "most_running": st.integers(1, 4),
        "prefix_cache": st.booleans(),
        "picture_memory": st.sampled_from([0, 5000, 10**6]),
        "way": st.sampled_from(list(WAYS)),
    }
)


class GrammarError(Exception):
    """What a request's own mask raises."""


def mask_of(visit: Visit) -> Any:
    def mask(said: Sequence[int]) -> None:
        if len(said) == visit.breaks:
            raise GrammarError

    return None if visit.breaks is None else mask


def run(subject: Subject, plan: Sequence[Visit], setting: dict[str, Any], spare: int) -> None:
    """Let requests come and go as planned in an engine whose memory holds the longest and `spare` blocks."""
    longest = max(whole_length(subject, visit.name, SAMPLINGS[0]) for visit in plan)
    kv_memory = memory(subject, -(-longest // BLOCK) + spare, BLOCK)
    way = WAYS[setting["way"]]
    others = {name: value for name, value in setting.items() if name != "way"}
    engine = Engine(subject.model, block=BLOCK, kv_memory=kv_memory, packed_memory=0, **others, **way)
    requests = {}
    for now in range(14):
        for number, visit in enumerate(plan):
            if visit.comes == now:
                inputs, mask = subject.prompt(visit.name), mask_of(visit)
                requests[number] = engine.submit(inputs, SAMPLINGS[visit.sampling], mask=mask)
            if visit.leaves is not None and visit.comes + visit.leaves == now:
                engine.abort(requests[number])
        engine.step()
    for number, visit in enumerate(plan):
        request, wanted = requests[number], subject.alone(visit.name, visit.sampling)
        try:
            list(request)
        except GrammarError:
            assert len(request.ids) == visit.breaks
        got = tuple(request.ids)
        cut = request.is_cancelled or request.error is not None
        assert got == (wanted[: len(got)] if cut else wanted)
        assert cut or visit.breaks is None
    engine.step()
    stats = engine.stats()
    assert (stats.blocks_used, stats.running, stats.waiting) == (0, 0, 0)
    assert stats.finished + stats.cancelled + stats.failed == len(plan)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_random_schedule(name: str):
    subject = SUBJECTS[name]
    plans = st.lists(visits(subject.names), min_size=1, max_size=4)

    @settings(max_examples=COUNTS[name], derandomize=True, deadline=None, database=None)
    @given(plan=plans, setting=engines, spare=st.integers(0, 12))
    def schedules(plan: list[Visit], setting: dict[str, Any], spare: int) -> None:
        run(subject, plan, setting, spare)

    schedules()
