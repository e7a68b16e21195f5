"""A worker between its controller and its node: what it joins as, when it gives up, how it leaves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from beholder.core.errors import ConfigError
from beholder.serving.cluster import worker as module
from beholder.serving.cluster.plan import Joining, Model
from beholder.serving.cluster.worker import UNREACHED, Worker


class Controller:
    """Says what it was given to say, one thing a look."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.left: list[str] = []
        self.taken: Any = None

    def about(self) -> dict[str, str]:
        return {"ray": "r", "session": "s"}

    def state(self, worker: str) -> Any:
        return self.states.pop(0)

    def join(self, joining: Joining) -> Any:
        return self.taken

    def leave(self, worker: str) -> bool:
        self.left.append(worker)
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)


def worker(*states: Any) -> Worker:
    made = Worker("127.0.0.1:1", Model(name="m", source="/a"), 1, 1)
    made.controller = Controller(*states)  # type: ignore[assignment]
    return made


def told(state: str, reason: str | None = None) -> dict[str, Any]:
    return {"state": state, "ready": int(state == "ready"), "wanted": 1, "reason": reason}


NODE: Any = SimpleNamespace(is_alive=True)


def test_a_worker_becomes_what_an_update_made_of_it():
    made = worker()
    updated = made.joining.model_copy(update={"model": Model(name="m", source="/b"), "update": True})
    made.controller.taken = updated  # type: ignore[attr-defined]
    assert made._join()
    assert (made.joining.model.source, made.joining.update) == ("/b", False)


def test_a_model_that_was_never_ready_ends_its_worker():
    made = worker(told("loading"), told("failed", "no such folder"))
    with pytest.raises(ConfigError, match="no such folder"):
        made._watch(NODE, "s")
    assert made.controller.left  # type: ignore[attr-defined]


def test_a_model_that_was_ready_is_waited_for(caplog):
    gone = {"state": "gone"}
    made = worker(told("ready"), told("failed", "out of memory"), told("ready"), gone)
    with caplog.at_level("INFO", "beholder.serve"):
        made._watch(NODE, "s")
    assert made.controller.states == []  # type: ignore[attr-defined]
    assert not made.controller.left  # type: ignore[attr-defined]
    assert "out of memory" in caplog.text


def test_a_short_silence_of_the_controller_cuts_no_answer_off():
    made = worker(None, None, told("ready"), *[None] * (UNREACHED - 1), {"state": "gone"}, "not asked")
    made._leave()
    assert made.controller.states == ["not asked"]  # type: ignore[attr-defined]
    made = worker(*[None] * UNREACHED, "not asked")
    made._leave()
    assert made.controller.states == ["not asked"]  # type: ignore[attr-defined]
