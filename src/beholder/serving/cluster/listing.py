"""The models of a cluster as a list: what the replicas say of themselves, and how many there are."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from beholder.serving.cluster.relay import SeenWorker
from beholder.serving.settings import Settings

START = int(time.time())
# Of several workers' states the first of these is the model's.
BEST_FIRST = ("ready", "loading", "gone", "failed")


def doubtful(seen: Iterable[SeenWorker], seconds: float) -> list[SeenWorker]:
    """The same, but nobody is called ready who has not been seen for so long; requests are still tried."""
    if not seconds:
        return list(seen)
    reason = f"the cluster has not been heard of for {seconds:.0f} s"
    return [replace(cast("Any", one), state="gone", ready=0, reason=reason) for one in seen]


def told_states(seen: Iterable[SeenWorker]) -> dict[str, str]:
    """Each model with `ready` or why it is not."""
    return {name: _state(workers)[1] or _state(workers)[0] for name, workers in _by_model(seen).items()}


def listed(seen: Iterable[SeenWorker], settings: Settings) -> list[dict[str, Any]]:
    """All models as `/v1/models` tells them."""
    return [_described(name, workers, settings) for name, workers in _by_model(seen).items()]


def one_model(seen: Iterable[SeenWorker], settings: Settings, name: str) -> dict[str, Any] | None:
    """One of them; None where there is none of that name."""
    workers = _by_model(seen).get(name)
    return None if workers is None else _described(name, workers, settings)


def _by_model(seen: Iterable[SeenWorker]) -> dict[str, list[SeenWorker]]:
    found: dict[str, list[SeenWorker]] = {}
    for one in seen:
        found.setdefault(one.model, []).append(one)
    return found


def _state(workers: list[SeenWorker]) -> tuple[str, str | None]:
    best = min(workers, key=lambda one: BEST_FIRST.index(one.state))
    return best.state, best.reason if best.state != "ready" else None


def _described(name: str, workers: list[SeenWorker], settings: Settings) -> dict[str, Any]:
    state, reason = _state(workers)
    none: dict[str, Any] = {}
    facts = next((one.facts for one in workers if one.facts), none)
    most = settings.most_pictures
    return {
        "id": name,
        "object": "model",
        "created": START,
        "owned_by": "beholder",
        "state": state,
        "reason": reason,
        **facts,
        "pictures_per_request": min(most, facts.get("pictures_per_request", most)),
        "replicas": {
            "ready": sum(one.ready for one in workers),
            "wanted": sum(one.wanted for one in workers),
            "workers": len(workers),
        },
    }
