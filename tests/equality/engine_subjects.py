"""Each family's golden and the built-in model, their requests, and what each request is answered alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from tests.equality import engine_cases
from tests.equality.engine_cases import SAMPLINGS
from tests.parity import golden_cogvlm, golden_llava

import beholder
from beholder.core.types import Message, Sampling
from beholder.generation.cache import Geometry
from beholder.generation.engine import Engine

OTHER = "other"  # the first prompt with its last two ids exchanged: it begins alike and goes on otherwise


@dataclass(frozen=True)
class Subject:
    """A model in fp32 and its prompts: with and without pictures, of several lengths."""

    name: str
    open: Callable[[], Any]
    prompts: Callable[[], Mapping[str, dict[str, Any]]]
    names: tuple[str, ...]

    @property
    def model(self) -> Any:
        """Opened once."""
        return self.open()

    def prompt(self, name: str) -> dict[str, Any]:
        """The inputs of one prompt."""
        if name != OTHER:
            return self.prompts()[name]
        first = self.prompts()[self.names[0]]
        ids = first["input_ids"].clone()
        ids[0, -2:] = ids[0, -2:].flip(0)
        return {**first, "input_ids": ids}

    def alone(self, name: str, sampling: int) -> tuple[int, ...]:
        """What a request is answered by an engine that keeps nothing, cuts nothing and runs nothing else."""
        return _alone(self.name, name, sampling)


@cache
def _alone(subject: str, name: str, sampling: int) -> tuple[int, ...]:
    one = SUBJECTS[subject]
    engine = Engine(one.model, prefix_cache=False, picture_memory=0, packed_memory=0, direct=False)
    return tuple(engine.stream(one.prompt(name), SAMPLINGS[sampling]))


def _without_labels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key != "labels"}


def _views() -> Subject:
    names = engine_cases.PROMPTS
    return Subject(
        "qh360vl", engine_cases.model, lambda: {name: engine_cases.prompt(name) for name in names}, names
    )


def _classes(kind: str) -> Subject:
    cases = golden_llava.CASES[kind]

    @cache
    def prompts() -> dict[str, dict[str, Any]]:
        return {case: dict(golden_llava.inputs_of(kind, case)) for case in cases}

    return Subject(kind, lambda: golden_llava.model_of(kind, "sdpa"), prompts, (*cases, OTHER))


def _experts() -> Subject:
    @cache
    def prompts() -> dict[str, dict[str, Any]]:
        return {case: _without_labels(golden_cogvlm.inputs_of(case)) for case in golden_cogvlm.SINGLE}

    names = (*golden_cogvlm.SINGLE, OTHER)
    return Subject("cogvlm", lambda: golden_cogvlm.model("sdpa"), prompts, names)


@cache
def _mini() -> beholder.VLM:
    return beholder.load(device="cpu", dtype="float32")


def _built_in() -> Subject:
    @cache
    def prompts() -> dict[str, dict[str, Any]]:
        sky, grass = Image.linear_gradient("L").convert("RGB"), Image.new("RGB", (60, 90), "green")
        first = Message.user(sky, "What is up there?")
        asked = {
            "picture": [first],
            "turn": [first, Message.assistant("The sky."), Message.user("And below?")],
            "two": [Message.user(sky, grass, "Which is brighter?")],
            "words": [Message.user("Hello!")],
        }
        return {name: dict(_mini().processor.encode(messages)) for name, messages in asked.items()}

    return Subject("mini", lambda: _mini().model, prompts, ("picture", "turn", "two", "words", OTHER))


SUBJECTS = {
    one.name: one for one in (_views(), _classes("llava"), _classes("internvl"), _experts(), _built_in())
}


def memory(subject: Subject, blocks: int, block: int) -> int:
    """Bytes for so many blocks."""
    return (blocks + 1) * block * Geometry.of(subject.model).bytes_per_token


def whole_length(subject: Subject, name: str, sampling: Sampling) -> int:
    """Tokens of a prompt and its answer that are stored."""
    return subject.prompt(name)["input_ids"].shape[1] + sampling.max_tokens - 1
