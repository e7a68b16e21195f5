"""The metrics of all replicas beside the controller's own, each told by the process that it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families as parsed


class _Gathered:
    """A collector of metrics that were written elsewhere."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return iter(self._metrics)


def gathered(own: bytes, replicas: Iterable[tuple[str, bytes]]) -> bytes:
    """The controller's metrics, and those that only replicas have with the label `process`.

    What both count, such as HTTP requests, is the controller's: it has seen every request.
    """
    found = {metric.name: metric for metric in _families(own)}
    mine = set(found)
    for process, text in replicas:
        for metric in _families(text):
            if metric.name in mine:
                continue
            kept = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            samples: list[Any] = metric.samples
            kept.samples += [one._replace(labels={**one.labels, "process": process}) for one in samples]
    registry = CollectorRegistry()
    registry.register(_Gathered(found.values()))  # pyright: ignore[reportArgumentType]
    return generate_latest(registry)


def _families(text: bytes) -> Iterator[Metric]:
    """What was counted at all; when counting began is left out, it says nothing over many processes."""
    for metric in parsed(text.decode()):
        if metric.samples and not metric.name.endswith("_created"):
            yield metric
