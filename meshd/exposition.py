"""Merged counters as families of prometheus_client; imported by the agent only."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from meshd.counters import Labels
from meshkit.telemetry.metrics import METRICS, Metric

_KINDS: dict[str, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def families(cells: Mapping[tuple[str, Labels], list[int]]) -> list[Family]:
    """One family a metric, in the order of the table; series of no known metric are left out."""
    by_name: dict[str, list[tuple[Labels, list[int]]]] = {}
    for (name, labels), values in cells.items():
        by_name.setdefault(name, []).append((labels, values))
    return [_family(METRICS[name], by_name[name]) for name in METRICS if name in by_name]


def _family(metric: Metric, series: list[tuple[Labels, list[int]]]) -> Family:
    family = _KINDS[metric.type](metric.name, metric.help, labels=metric.labels)
    for labels, values in series:
        given = dict(labels)
        texts = [given.get(label, "") for label in metric.labels]
        if isinstance(family, HistogramMetricFamily):
            family.add_metric(texts, _buckets(metric.bounds, values), values[-1] / metric.scale)
        else:
            family.add_metric(texts, values[0])
    return family


def _buckets(bounds: tuple[float, ...], values: list[int]) -> list[tuple[str, float]]:
    """Prometheus wants cumulative counts by upper bound."""
    total = 0
    result: list[tuple[str, float]] = []
    for bound, count in zip((*map(float, bounds), float("inf")), values, strict=False):
        total += count
        result.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return result
