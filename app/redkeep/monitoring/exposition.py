"""The figures of the monitoring in Prometheus' text format (version 0.0.4), made anew at each scrape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from redkeep.errors import ConfigurationError
from redkeep.monitoring.figures import Family, Figures

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def exposition(figures: Figures) -> str:
    """One document; each name begins with `redkeep_`. Raises ConfigurationError when prometheus-client is not installed."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector
    except ImportError:
        raise ConfigurationError("prometheus-client is not installed: in Redkeep's folder run `pip install './app[api]'`") from None

    families = [_metric(family) for family in figures.families()]

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry).decode("utf-8")


def _metric(family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric: Metric = kind(f"redkeep_{family.name}", family.text, labels=family.labels)
    for labels, value in family.rows:
        metric.add_metric(labels, value)  # type: ignore[attr-defined]  # both have it, their base has not
    return metric
