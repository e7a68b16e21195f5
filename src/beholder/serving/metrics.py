"""Prometheus metrics of one server, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from beholder.core.types import Answer

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "beholder_http_requests", "HTTP requests by route and status.", ("method", "route", "status"),
            registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "beholder_errors", "Refused and failed requests by cause.", ("cause",), registry=registry
        )
        self.duration = Histogram(
            "beholder_request_duration_seconds", "Until the last byte of the answer.", ("route",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "beholder_time_to_first_token_seconds", "From the request to its first text.", ("model",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.token_time = Histogram(
            "beholder_time_per_output_token_seconds", "Mean time of an answer's further tokens.", ("model",),
            buckets=TOKEN_SECONDS, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "beholder_prompt_tokens", "Tokens of prompts, pictures included.", ("model",), registry=registry
        )
        self.cached_tokens = Counter(
            "beholder_cached_prompt_tokens", "Tokens of prompts that had been computed before.", ("model",),
            registry=registry,
        )  # fmt: skip
        self.answer_tokens = Counter(
            "beholder_generation_tokens", "Tokens of answers.", ("model",), registry=registry
        )
        self.answers = Counter(
            "beholder_answers", "Answers by the reason they ended.", ("model", "reason"), registry=registry
        )
        self.pictures = Counter("beholder_pictures", "Pictures received.", registry=registry)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when somebody looks."""
        Gauge(f"beholder_{name}", help_text, registry=self.registry).set_function(value)

    def answered(self, model: str, answer: Answer, first: float) -> None:
        """Count one complete answer; `first` is when its first text came, in seconds from the request."""
        usage, timings = answer.usage, answer.timings
        self.first_token.labels(model).observe(first)
        if usage.completion_tokens > 1:
            further = (timings.total - timings.first_token) / (usage.completion_tokens - 1)
            self.token_time.labels(model).observe(further)
        self.prompt_tokens.labels(model).inc(usage.prompt_tokens)
        self.cached_tokens.labels(model).inc(usage.cached_tokens)
        self.answer_tokens.labels(model).inc(usage.completion_tokens)
        self.answers.labels(model, answer.finish_reason).inc()

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self.registry)
