"""Figures of answering: first tokens, decode alone and in a batch, many requests at once; ours and a peer's.

Ours and the peer's requests alternate, so that what disturbs the machine disturbs both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beholder.benchmarking.material import Conversations, second_turn
from beholder.benchmarking.peer import Peer
from beholder.core.types import Message, Sampling

if TYPE_CHECKING:
    from beholder.api import VLM

BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is run: `repeats` of what is short, `tokens` per decode figure, `requests` at once with
    answers of `shortest` to `longest` tokens, `growth` requests to see whether memory grows."""

    repeats: int = 5
    tokens: int = 32
    requests: int = 16
    shortest: int = 16
    longest: int = 256
    growth: int = 200


@dataclass
class Bench:
    """A loaded model, perhaps a peer, and what they are asked."""

    vlm: VLM
    peer: Peer | None
    plan: Plan
    material: Conversations = field(default_factory=Conversations)

    def inputs(self, messages: tuple[Message, ...]) -> Any:
        """What the engine takes of a conversation."""
        return self.vlm.processor.encode(messages)

    def answer(self, messages: tuple[Message, ...], length: int) -> Any:
        """A submitted request of exactly so many tokens."""
        sampling = Sampling(max_tokens=length, ignore_eos=True)
        return self.vlm.engine.submit(self.inputs(messages), sampling)


def median_ms(seconds: Iterable[float]) -> float:
    """Their median in milliseconds."""
    return 1000 * statistics.median(seconds)


def first_tokens(bench: Bench) -> dict[str, float]:
    """From a picture and a question to the first token, then from the next question on the same picture."""
    ours: tuple[list[float], list[float]] = ([], [])
    theirs: tuple[list[float], list[float]] = ([], [])
    towers: list[float] = []
    for number in range(bench.plan.repeats + 1):
        first = bench.material.first_turn()
        for turn, messages in enumerate((first, second_turn(first))):
            begun = time.perf_counter()
            request = bench.answer(messages, 1)
            next(request)
            taken = time.perf_counter() - begun
            if number:  # the first prepares what later ones find
                ours[turn].append(taken)
                towers += [request.clock.tower] if turn == 0 else []
        if bench.peer is not None:
            for turn, messages in enumerate((first, second_turn(first))):
                taken = bench.peer.run([messages], 1).first
                if number:
                    theirs[turn].append(taken)
    values = {
        "first_token_ms": median_ms(ours[0]),
        "tower_ms": median_ms(towers),
        "second_turn_ms": median_ms(ours[1]),
    }
    if bench.peer is not None:
        values |= {
            "peer_first_token_ms": median_ms(theirs[0]),
            "peer_second_turn_ms": median_ms(theirs[1]),
        }
        values["first_token_share_of_peer"] = values["first_token_ms"] / values["peer_first_token_ms"]
        values["second_turn_times_peer"] = values["peer_second_turn_ms"] / values["second_turn_ms"]
    return values


def decode(bench: Bench) -> dict[str, float]:
    """Milliseconds per token of one answer, after its first."""
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(bench.plan.repeats + 1):
        messages = bench.material.first_turn()
        request = bench.answer(messages, bench.plan.tokens + 1)
        for _ in request:
            pass
        if number:
            ours.append(request.seconds_per_token)
        if bench.peer is not None and number:
            theirs.append(bench.peer.run([messages], bench.plan.tokens + 1).per_step)
    values = {"decode_ms_per_token": median_ms(ours)}
    if theirs:
        values["peer_decode_ms_per_token"] = median_ms(theirs)
        values["decode_times_peer"] = values["peer_decode_ms_per_token"] / values["decode_ms_per_token"]
    return values


def batch(bench: Bench) -> dict[str, float]:
    """Tokens per second of eight answers at once, their prompts read before."""
    steps, engine = bench.plan.tokens, bench.vlm.engine
    conversations = [bench.material.varied() for _ in range(BATCH)]
    # Prompts are read one after the other, while those before already answer: some tokens are to spare.
    spare = 2 * BATCH + sum(bench.inputs(messages)["input_ids"].shape[1] for messages in conversations) // 64
    requests = [bench.answer(messages, steps + spare) for messages in conversations]
    while any(not request.ids for request in requests):
        engine.step()
    engine.step()
    before, begun = sum(len(request.ids) for request in requests), time.perf_counter()
    for _ in range(steps):
        engine.step()
    taken = time.perf_counter() - begun
    done = sum(len(request.ids) for request in requests) - before
    for request in requests:
        request.close()
    if done != steps * BATCH:
        raise RuntimeError(f"{done} tokens came in {steps} steps of {BATCH} requests")
    values = {"batch8_tokens_per_s": done / taken}
    if bench.peer is not None:
        timed = bench.peer.run(conversations, steps + 1)
        values["peer_batch8_tokens_per_s"] = BATCH / timed.per_step
        values["batch8_times_peer"] = values["batch8_tokens_per_s"] / values["peer_batch8_tokens_per_s"]
    return values


def concurrent(bench: Bench) -> dict[str, float]:
    """Tokens per second of many picture requests of other lengths, sent at once; from pictures to answers.

    The peer answers them as one padded batch, as long as the longest; only what was asked for is counted.
    """
    plan = bench.plan
    conversations = [bench.material.varied() for _ in range(plan.requests)]
    lengths = [bench.material.answer_length(plan.shortest, plan.longest) for _ in conversations]
    begun = time.perf_counter()
    requests = [bench.answer(*pair) for pair in zip(conversations, lengths, strict=True)]
    for request in requests:
        for _ in request:
            pass
    taken = time.perf_counter() - begun
    firsts = [request.clock.first - begun for request in requests]
    values = {
        "concurrent_tokens_per_s": sum(lengths) / taken,
        "concurrent_first_token_s": statistics.mean(firsts),
        "concurrent_tokens": float(sum(lengths)),
    }
    if bench.peer is not None:
        timed = bench.peer.run(conversations, max(lengths))
        values["peer_concurrent_tokens_per_s"] = sum(lengths) / timed.total
        values["peer_concurrent_first_token_s"] = timed.first
        values["concurrent_times_peer"] = timed.total / taken
    return values
