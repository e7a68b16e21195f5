"""Greedy answers to many conversations at once, through the engine that everybody's requests go through.

Benchmarks ask many questions about one picture: the engine looks at it once, reads what prompts begin with in
common once, and answers side by side. The slow twin is `VLM.chat`, and both must say the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beholder.core.types import Message
from beholder.evaluation.task import Reply

if TYPE_CHECKING:
    from beholder.api import VLM, AnswerStream

Conversation = Sequence[Message]


def answer_one(vlm: VLM, messages: Conversation, max_tokens: int) -> Reply:
    """The slow twin: one conversation by itself."""
    answer = vlm.chat(messages, max_tokens=max_tokens)
    return Reply(answer.text, answer.boxes, answer.usage.completion_tokens, answer.timings.total)


def answer_batch(vlm: VLM, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
    """One answer for each conversation, in order, each taking its share of the time that all took.

    What is wrong with one is raised, and then nothing is left running: who wants to know whose fault it is
    asks one by one.
    """
    start = time.perf_counter()
    streams: list[AnswerStream] = []
    try:
        # All stand in the queue before the first step, so the steps do not depend on a race with a thread.
        streams.extend(vlm.stream(messages, max_tokens=max_tokens) for messages in conversations)
        answers = [stream.read() for stream in streams]
    finally:
        for stream in streams:
            stream.close()
    seconds = (time.perf_counter() - start) / max(1, len(answers))
    return [Reply(answer.text, answer.boxes, answer.usage.completion_tokens, seconds) for answer in answers]
