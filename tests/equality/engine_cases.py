"""Requests to the golden model and what each is answered alone: the slow twin of every way to run them."""

from __future__ import annotations

from functools import cache

from tests.equality.native_cases import ensure_built
from tests.parity.golden_360vl import inputs_of, model_of
from torch import Tensor

from beholder.core.types import Sampling
from beholder.generation.cache import Geometry
from beholder.generation.engine import Engine
from beholder.generation.request import Request

ensure_built()
# Two of one picture, the second a turn later; two pictures; none; another prompt about the first picture.
PROMPTS = ("cc", "turn2", "multi", "text", "other")
LENGTH = 6
BLOCK = 4
SAMPLINGS = (
    Sampling(max_tokens=LENGTH),
    Sampling(max_tokens=LENGTH, temperature=1.2, seed=3),
    Sampling(max_tokens=LENGTH, temperature=0.9, top_p=0.8, repetition_penalty=1.3, seed=11),
    Sampling(max_tokens=LENGTH, presence_penalty=1.0, frequency_penalty=0.5, logit_bias={5: 1.0, 9: -2.0}),
)

# The ways to run rows that answer: by packed weights, or by PyTorch where their keys stand or side by side.
WAYS = {"native": {"native": True}, "direct": {"direct": True}, "gathered": {"direct": False}}


@cache
def prompt(name: str) -> dict[str, Tensor]:
    """The inputs of one prompt; "other" is the first with two ids exchanged behind its picture."""
    if name != "other":
        return {key: value for key, value in inputs_of(name).items() if key != "labels"}
    inputs = prompt("cc")
    ids = inputs["input_ids"].clone()
    ids[0, -1], ids[0, -2] = inputs["input_ids"][0, -2], inputs["input_ids"][0, -1]
    return {**inputs, "input_ids": ids}


def model(attention: str = "sdpa"):
    """The golden model in fp32."""
    return model_of("cc", attention)


@cache
def alone(name: str, sampling: int = 0, attention: str = "sdpa") -> tuple[int, ...]:
    """What a request is answered by an engine that keeps nothing, cuts nothing and runs nothing else."""
    engine = Engine(model(attention), prefix_cache=False, picture_memory=0, direct=False)
    return tuple(engine.stream(prompt(name), SAMPLINGS[sampling]))


def memory(blocks: int, block: int = BLOCK) -> int:
    """Bytes for so many blocks."""
    return (blocks + 1) * block * Geometry.of(model()).bytes_per_token


def rest(request: Request) -> tuple[int, ...]:
    """All ids of a request, run to its end."""
    for _ in request:
        pass
    return tuple(request.ids)
