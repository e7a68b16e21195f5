"""Ray Serve's router of one deployment, choosing by conversation; the ranking is in `affinity.py`."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from beholder.serving.cluster.affinity import ranked, spilled
from beholder.serving.cluster.calls import Call


class ConversationRouter(RequestRouter):
    """The replica that has the conversation, unless it has much more to do than the others."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Each replica as a rank of its own; Serve takes the first that has room."""
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        known = self.replica_queue_len_cache
        loads = {name: float(known.get(replica.replica_id) or 0) for name, replica in replicas.items()}
        weights = dict.fromkeys(replicas, 1.0)
        key = b""
        if pending_request is not None:
            # Without this Serve asks again at once, for ever, while all replicas are full.
            pending_request.routing_context.should_backoff = True
            given: Any = pending_request.args[0] if pending_request.args else None
            key = given.key if isinstance(given, Call) else b""
        order = ranked(key, weights) if key else sorted(replicas, key=lambda name: loads[name])
        return [[replicas[name]] for name in spilled(order, loads, weights)]
