"""Metrics for Prometheus, as text or OpenMetrics.

Needs the package prometheus-client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


def render(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """Return the metrics, and their content type, in the format that ``accept`` prefers.

    ``accept`` is the field of that name in the request.  The metrics of this process, as of now,
    come behind.
    """
    registry = CollectorRegistry()
    registry.register(_Made(metrics))
    ProcessCollector(registry=registry)
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # of a version that is no number
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Made(Collector):
    """Metrics, for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def labelled(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    documentation: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    """Return a metric with a value for each value of ``label``."""
    metric = family(name, documentation, labels=[label])
    for value, number in values.items():
        metric.add_metric([value], number)
    return metric
