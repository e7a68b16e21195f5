"""The engine's answers are the originals', for every family, in any pieces, side by side and from the cache.

One family's patches share a position and route experts; another's features come from transformers' classes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.equality.native_cases import ensure_built
from tests.parity import golden_cogvlm, golden_llava

from beholder.core.types import Sampling
from beholder.generation.engine import Engine

ensure_built()
GREEDY = Sampling(max_tokens=16)
either = pytest.mark.parametrize("native", [True, False], ids=["native", "pytorch"])


def shown(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs without what only training reads."""
    return {name: value for name, value in inputs.items() if name != "labels"}


def experts(case: str) -> dict[str, Any]:
    return shown(golden_cogvlm.inputs_of(case))


def wanted_of_experts(case: str) -> list[int]:
    return golden_cogvlm.recorded()[f"{case}/greedy_new_tokens"][0].tolist()


@pytest.mark.parametrize(
    ("attention", "native"), [("sdpa", True), *((name, False) for name in golden_cogvlm.ATTENTION)]
)
@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_shared_positions_and_experts_in_pieces(attention, native, chunk):
    """Cut anywhere, a token keeps the expert and the position that the whole prompt gives it."""
    model = golden_cogvlm.model(attention)
    engine = Engine(model, chunk=chunk, idle_chunk=chunk, prefix_cache=False, native=native)
    for case in golden_cogvlm.SINGLE:
        assert list(engine.stream(experts(case), GREEDY)) == wanted_of_experts(case), case


@either
def test_shared_positions_and_experts_side_by_side_and_again(native):
    """With pictures and without in one batch, then from what was kept."""
    engine = Engine(golden_cogvlm.model("sdpa"), block=4, native=native)
    for _ in range(2):
        requests = {case: engine.submit(experts(case), GREEDY) for case in golden_cogvlm.SINGLE}
        for case, request in requests.items():
            assert list(request) == wanted_of_experts(case), case
    assert engine.stats().cached_tokens > 0


@pytest.mark.parametrize("chunk", [1, 5, 1000])
@pytest.mark.parametrize("kind", golden_llava.CASES)
@either
def test_features_of_transformers_classes(kind, chunk, native):
    model = golden_llava.model_of(kind, "sdpa")
    engine = Engine(model, chunk=chunk, idle_chunk=chunk, block=4, native=native)
    for _ in range(2):
        requests = {
            case: engine.submit(golden_llava.inputs_of(kind, case), GREEDY)
            for case in golden_llava.CASES[kind]
        }
        for case, request in requests.items():
            assert list(request) == golden_llava.recorded(kind)[f"{case}.generated"][0].tolist(), case
    assert engine.stats().cached_tokens > 0


@pytest.mark.parametrize("name", ["experts", "classes"])
def test_compiled_in_fixed_shapes(name):
    """Also what a layer of experts does, and a class of transformers, is one graph without a break."""
    if name == "experts":
        model, cases, wanted = golden_cogvlm.model("sdpa"), golden_cogvlm.SINGLE, wanted_of_experts
    else:
        model, cases = golden_llava.model_of("llava", "sdpa"), golden_llava.CASES["llava"]

        def wanted(case: str) -> list[int]:
            return golden_llava.recorded("llava")[f"{case}.generated"][0].tolist()

    torch._dynamo.utils.counters.clear()
    engine = Engine(model, block=4, compile="eager")
    made = experts if name == "experts" else lambda case: golden_llava.inputs_of("llava", case)
    requests = {case: engine.submit(made(case), GREEDY) for case in cases}
    for case, request in requests.items():
        assert list(request) == wanted(case), case
    assert not torch._dynamo.utils.counters["graph_break"]
