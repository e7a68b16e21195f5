"""Our models as lmms-eval asks them, so that its tasks run on all our families through our engine.

    python -m lmms_eval --model beholder --model_args pretrained=liuhaotian/llava-v1.5-7b --tasks mme

lmms-eval makes the prompts and scores the answers. Only lmms-eval imports this module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
from PIL import Image

import beholder
from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Message
from beholder.evaluation.batches import preparing_once

LONGEST = 1024  # tokens, where a task does not say
TOGETHER = 64  # requests, where nobody says
# What a task may say of how answers are made, and what we call it. What changes nothing at one beam is taken.
NAMES = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"}
HARMLESS = {"num_beams": (1, None), "use_cache": (True, False, None)}


class BeholderModel(lmms):  # pyright: ignore[reportUntypedBaseClass]
    """`pretrained` is whatever `beholder.load` opens, the built-in model if left out."""

    def __init__(
        self, pretrained: str | None = None, device: str | None = None, dtype: str | None = None,
        batch_size: int | str = TOGETHER, template: str | None = None, **unknown: Any,
    ) -> None:  # fmt: skip
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        unknown.pop("max_batch_size", None)  # lmms-eval always gives it
        if unknown:
            raise ConfigError(f"--model_args {', '.join(sorted(unknown))} is unknown to beholder's models")
        self.vlm = beholder.load(pretrained, device=device, dtype=dtype, template=template)
        self.together = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer for each request, in order."""
        said: list[str] = []
        for start in range(0, len(requests), self.together):
            said += self._answers(requests[start : start + self.together])
        return said

    @property
    def _rows(self) -> Any:
        """Task -> split -> rows, as lmms-eval hangs them on a model before it asks."""
        return self.task_dict  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def _answers(self, requests: Sequence[Any]) -> list[str]:
        model, streams = preparing_once(self.vlm), list[Any]()
        try:
            for request in requests:
                text, settings, doc_to_visual, place, task, split = request.args
                shown: list[Any] = doc_to_visual(self._rows[task][split][place]) or []
                streams.append(model.stream([message_of(text, shown)], **sampling_of(settings)))
            return [stream.read().text for stream in streams]
        finally:
            for stream in streams:
                stream.close()

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not possible: such tasks write their own rounds for each model."""
        raise NotImplementedError("beholder's lmms-eval model answers single rounds only")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not possible: our engine scores what it says and not what others might."""
        raise NotImplementedError("beholder's lmms-eval model generates; use tasks of type generate_until")


def message_of(text: str, shown: Sequence[Any]) -> Message:
    """Pictures first, then the question, as our families were trained."""
    for one in shown:
        if not isinstance(one, Image.Image):
            raise InputError(f"beholder's models look at pictures; this task shows a {type(one).__name__}")
    return Message.user(*shown, text)


def sampling_of(settings: dict[str, Any] | str) -> dict[str, Any]:
    """A task's generation_kwargs as ours; what neither of us knows is an error."""
    told: dict[str, Any] = dict(json.loads(settings) if isinstance(settings, str) else settings)
    until = told.pop("until", [])
    sampled = bool(told.pop("do_sample", False))
    wanted: dict[str, Any] = {"max_tokens": LONGEST, "temperature": 0.0}
    for name, ours in NAMES.items():
        value = told.pop(name, None)
        if value is not None and (sampled or ours == "max_tokens"):
            wanted[ours] = value
    for name, values in HARMLESS.items():
        if told.get(name) in values:
            told.pop(name, None)
    if told:
        raise InputError(f"generation_kwargs {told} cannot be followed by beholder's engine")
    return {**wanted, "stop": [until] if isinstance(until, str) else list(until)}
