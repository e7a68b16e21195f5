"""Who may come in: a limit on all, a limit on each client, and nobody new while the server drains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from beholder.serving.errors import APIError
from beholder.serving.settings import Settings


class Admission:
    """Counts the answers that were promised; used from the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_draining = False
        self.inside = 0
        self._by_client: Counter[str] = Counter()

    def refuse_while_draining(self) -> None:
        """Nothing new is begun before an end."""
        if self.is_draining:
            raise APIError(503, "the server is shutting down", code="shutting_down", retry=True)

    @contextmanager
    def enter(self, client: str, answers: int) -> Generator[None]:
        """Hold places for so many answers, or refuse."""
        self.refuse_while_draining()
        settings = self.settings
        room = settings.most_running + settings.most_waiting
        if self.inside + answers > room:
            raise APIError(
                429, f"{self.inside} answers run or wait and there is room for {room}; come again later",
                code="queue_full", retry=True,
            )  # fmt: skip
        mine = self._by_client[client] + answers
        if settings.most_per_client and mine > settings.most_per_client:
            raise APIError(
                429, f"this client may have {settings.most_per_client} answers at once and asks for {mine}",
                code="too_many_requests", retry=True,
            )  # fmt: skip
        self.inside += answers
        self._by_client[client] += answers
        try:
            yield
        finally:
            self.inside -= answers
            self._by_client[client] -= answers
            if not self._by_client[client]:
                del self._by_client[client]
