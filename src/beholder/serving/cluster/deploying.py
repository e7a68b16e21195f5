"""A worker's replicas as an application of Ray Serve: what it is called, and how it is run."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import hashlib
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from beholder.serving.cluster.node import resource
from beholder.serving.cluster.plan import Joining
from beholder.serving.cluster.replica import Replica
from beholder.serving.cluster.routing import ConversationRouter
from beholder.serving.settings import Settings

DEPLOYMENT = "replica"
PREFIX = "beholder-"


def application(worker: str) -> str:
    """The name of a worker's Serve application."""
    return PREFIX + worker


def version(joining: Joining, settings: Settings) -> str:
    """Equal where nothing has to be deployed anew: the same model under the same limits."""
    limits = {name: value for name, value in vars(settings).items() if name != "keys"}
    told = joining.model_dump_json(exclude={"update"}) + repr(limits)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def deployment(joining: Joining, settings: Settings) -> Any:
    """The Serve application of one worker."""
    model = joining.model
    replicas: dict[str, Any] = {"num_replicas": joining.low}
    if joining.high > joining.low:
        replicas = {
            "num_replicas": None,
            "autoscaling_config": {
                "min_replicas": joining.low, "max_replicas": joining.high,
                "target_ongoing_requests": max(1, model.most_running // 2),
                "upscale_delay_s": 5, "downscale_delay_s": 120,
            },
        }  # fmt: skip
    made = serve.deployment(Replica).options(
        name=DEPLOYMENT,
        ray_actor_options={
            "num_cpus": model.cpus, "num_gpus": model.gpus, "resources": {resource(joining.worker): 1},
        },
        # As many again wait within it: what waits outside asks for a place only now and then, so that places
        # would stay empty in between.
        max_ongoing_requests=2 * model.most_running,
        max_queued_requests=settings.most_waiting,
        max_surge_percent=1 if joining.spare else 0,  # rounded up to one replica
        max_constructor_retry_count=2,
        health_check_period_s=0.5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=settings.request_seconds,
        request_router_config=RequestRouterConfig(request_router_class=ConversationRouter),  # pyright: ignore[reportArgumentType]
        logging_config={"log_level": "WARNING"},
        **replicas,
    )  # fmt: skip
    return made.bind(model, settings)
