"""What keys and values in 8 bits cost the built-in model: next to nothing in scores, and few of its words."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

import beholder
from beholder.core.types import Message
from beholder.mini.drawing import draw_scene
from beholder.mini.fonts import FontBook
from beholder.mini.questions import evaluation_questions
from beholder.mini.worlds import scene_at, stream

SCENES, LENGTH = 5, 48
# Of log-probabilities of the tokens that are said, as long as both have said the same: seen are 0.09 at most
# and 0.002 in the mean.
MOST, MEAN = 0.15, 0.005
# Of the answers, word for word: seen are 36 to 41 of 45. What differs are digits of boxes, all but two.
LEAST = 0.75

WAYS = {"pytorch": {"native": False}, "native": {"native": True}, "int8": {"native": "int8"}}


def asked() -> Iterator[tuple[Message, ...]]:
    """All kinds of questions about a few scenes that nobody trained on."""
    fonts = FontBook()
    for index in range(SCENES):
        scene = scene_at(5, "test", index, fonts)
        shown = draw_scene(scene, fonts)
        for question in evaluation_questions(scene, stream(5, "test", index, "questions")):
            yield (Message.user(shown, question.question),)


@pytest.fixture(scope="module")
def conversations() -> list[tuple[Message, ...]]:
    return list(asked())


@pytest.mark.parametrize("way", WAYS)
def test_answers_and_scores_over_bytes(way, conversations):
    plain = beholder.load(device="cpu", **WAYS[way])
    narrow = beholder.load(device="cpu", kv_dtype="int8", **WAYS[way])
    same, apart = 0, list[float]()
    for conversation in conversations:
        streams = [vlm.stream(conversation, max_tokens=LENGTH, logprobs=1) for vlm in (plain, narrow)]
        one, other = (said.read() for said in streams)
        same += one.text == other.text
        for first, second in zip(*(said.scores for said in streams), strict=False):
            if first.token != second.token:
                break
            apart.append(abs(first.logprob - second.logprob))
    plain.close()
    narrow.close()
    assert len(conversations) > 30
    assert len(apart) > 300
    assert same >= math.ceil(LEAST * len(conversations)), f"{same} of {len(conversations)}"
    assert 0 < max(apart) < MOST
    assert sum(apart) / len(apart) < MEAN
    assert narrow.engine.stats().bytes_per_token < plain.engine.stats().bytes_per_token / 1.8
