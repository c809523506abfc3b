"""The figures of the monitoring in Prometheus' text format (version 0.0.4), made anew at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from redkeep.errors import ConfigurationError
from redkeep.monitoring.control import STATES, Control
from redkeep.monitoring.events import EventType

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_NODE_FIGURES: Final = {
    "clients": ("clients", "Clients that are connected"),
    "memory_used_bytes": ("memory_used_bytes", "Memory that Redis has allocated, bytes"),
    "memory_limit_bytes": ("memory_limit_bytes", "maxmemory, bytes"),
    "hit_ratio": ("hit_ratio", "Hits to lookups since the start of the server, 0 to 1"),
    "keys": ("keys", "Keys in all databases"),
    "uptime_seconds": ("uptime_seconds", "Seconds since the server started"),
}


def exposition(
    *,
    controls: Sequence[Control],
    nodes: Sequence[Mapping[str, Any]],
    totals: Mapping[tuple[EventType, bool], int],
    certificates: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    checked_at: float,
) -> str:
    """One document. Raises ConfigurationError when prometheus-client is not installed."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector
    except ImportError:
        raise ConfigurationError("prometheus-client is not installed; install redkeep[api]") from None

    families = list(_families(controls, nodes, totals, certificates, summary, checked_at))

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry).decode("utf-8")


def _families(
    controls: Sequence[Control],
    nodes: Sequence[Mapping[str, Any]],
    totals: Mapping[tuple[EventType, bool], int],
    certificates: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    checked_at: float,
) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    posture = GaugeMetricFamily("redkeep_posture", "1 for the state that a control of the posture is in", labels=["control", "state"])
    for control in controls:
        for state in STATES:
            posture.add_metric([control.name, state], float(control.state == state))
    yield posture
    yield GaugeMetricFamily("redkeep_posture_checked_timestamp_seconds", "When the posture was found out", value=checked_at)

    events = CounterMetricFamily("redkeep_security_events", "Security events by kind", labels=["kind", "success"])
    for (kind, success), total in totals.items():
        events.add_metric([kind, str(success).lower()], total)
    yield events

    up = GaugeMetricFamily("redkeep_node_up", "Whether the node answers the user monitor", labels=["node"])
    latency = GaugeMetricFamily("redkeep_node_latency_seconds", "How long INFO took at the last look", labels=["node"])
    figures = {name: GaugeMetricFamily(f"redkeep_node_{name}", text, labels=["node"]) for name, text in _NODE_FIGURES.values()}
    for node in nodes:
        name = str(node["node"])
        if node["state"] != "unknown":
            up.add_metric([name], float(node["state"] == "up"))
        if node.get("latency_ms") is not None:
            latency.add_metric([name], node["latency_ms"] / 1000)
        for field, (metric, _) in _NODE_FIGURES.items():
            if node["state"] == "up" and node.get(field) is not None:
                figures[metric].add_metric([name], float(node[field]))
    yield from (up, latency, *figures.values())

    ends = GaugeMetricFamily("redkeep_certificate_seconds_left", "Seconds until a certificate ends", labels=["whose"])
    for certificate in certificates:
        ends.add_metric([str(certificate["whose"])], float(certificate["seconds_left"]))
    yield ends
    encryption = summary["encryption"]
    yield CounterMetricFamily("redkeep_encryption_operations", "Values sealed and opened", value=encryption["total_operations"])
    yield CounterMetricFamily("redkeep_encryption_errors", "Values that could not be sealed or opened", value=encryption["error_count"])
