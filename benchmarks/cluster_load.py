"""Requests of several clients at once against a cluster, and how each of them ended, for `cluster.py`."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from cluster_processes import QUESTIONS, READY_SECONDS, request

PICTURES = 8
UNSEEN = itertools.count(PICTURES)  # numbers of pictures that nobody was asked about
RETRYABLE = {"replica_lost", "queue_full", "model_not_ready", "no_capacity", "shutting_down", "timeout"}


def ask(client: httpx.Client, body: dict[str, Any]) -> tuple[str, str]:
    """How one request ended: ("answer", its text), ("error", its code), or ("broken", what was wrong)."""
    try:
        if not body["stream"]:
            response = client.post("/v1/chat/completions", json=body)
            told = response.json()
            if response.status_code == 200:
                said = told["usage"]["completion_tokens"]
                if "logit_bias" in body and said != body["max_tokens"]:
                    return "broken", f"the answer has {said} tokens and not {body['max_tokens']}"
                return "answer", told["choices"][0]["message"]["content"]
            return "error", told["error"]["code"]
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return "error", json.loads(response.read())["error"]["code"]
            return _read(line for line in response.iter_lines() if line.startswith("data: "))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return "broken", f"{type(error).__name__}: {error}"


def _read(lines: Iterator[str]) -> tuple[str, str]:
    text = ""
    for line in lines:
        if line == "data: [DONE]":
            return "answer", text
        told = json.loads(line.removeprefix("data: "))
        if "error" in told:
            return "error", told["error"]["code"]
        text += told["choices"][0]["delta"].get("content") or ""
    return "broken", "the stream ended without [DONE]"


class Load:
    """Requests of several clients at once, and how they ended.

    With `tokens` all answers are so long: no token of `ends`, which end an answer, is ever drawn. `fresh`
    requests are about pictures that no other request is about.
    """

    def __init__(
        self,
        url: str,
        models: list[str],
        tokens: int | None = None,
        ends: Iterable[int] = (),
        *,
        fresh: bool = False,
    ) -> None:
        self.url, self.models, self.tokens, self.fresh = url, models, tokens, fresh
        self.never = dict.fromkeys(map(str, ends), -100)
        self.expected: dict[int, str] = {}
        self.ended: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def one(self, number: int) -> None:
        """Request number so and so; every other one is a stream."""
        start = time.perf_counter()
        kind, told = ask(self.client, self.body(number, stream=bool(number // len(self.models) % 2)))
        if kind == "answer":
            wanted = self.expected.get(number % self.different)
            outcome = "right" if wanted in (told, None) else f"wrong: {told!r} and not {wanted!r}"
        else:
            outcome = told if kind == "error" and told in RETRYABLE else f"{kind}: {told}"
        with self._lock:
            self.ended[outcome] += 1
            self.seconds.append(time.perf_counter() - start)

    @property
    def different(self) -> int:
        """After how many requests the first comes again."""
        return len(self.models) * len(QUESTIONS) * PICTURES

    def body(self, number: int, *, stream: bool) -> dict[str, Any]:
        """The request of a number: its model, then its picture, then its question."""
        number, model = divmod(number, len(self.models))
        question, about = divmod(number, PICTURES)
        length: dict[str, Any] = {"max_tokens": 48}
        if self.tokens:
            length = {"max_tokens": self.tokens, "logit_bias": self.never}
        asked = QUESTIONS[question % len(QUESTIONS)]
        about = next(UNSEEN) if self.fresh else about
        return request(self.models[model], asked, about, stream=stream, **length)

    def learn(self) -> Load:
        """Ask everything once while all is well: what is said now is right. Without it any answer is."""
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            for number in range(self.different):
                kind, text = ask(client, self.body(number, stream=False))
                if kind != "answer":
                    raise SystemExit(f"request {number} is not answered: {text}")
                self.expected[number] = text
        return self

    def run(self, requests: int, clients: int, more: Callable[[], bool] = bool) -> float:
        """All of them, and on as long as more are wanted; how long it took."""
        start, numbers = time.perf_counter(), itertools.count()

        def one_after_the_other(_client: int) -> None:
            for number in numbers:
                if number >= requests and not more():
                    return
                self.one(number)

        limits = httpx.Limits(max_connections=clients)
        with (
            httpx.Client(base_url=self.url, timeout=READY_SECONDS, trust_env=False, limits=limits) as client,
            ThreadPoolExecutor(clients) as pool,
        ):
            self.client = client
            list(pool.map(one_after_the_other, range(clients)))
        return time.perf_counter() - start

    def values(self) -> dict[str, float]:
        """Counts by outcome, and times."""
        waited = sorted(self.seconds)
        return {
            "right": self.ended["right"],
            "retryable errors": sum(self.ended[code] for code in RETRYABLE),
            "anything else": sum(
                count for what, count in self.ended.items() if what != "right" and what not in RETRYABLE
            ),
            "median seconds": statistics.median(waited),
            "longest seconds": waited[-1],
        }
