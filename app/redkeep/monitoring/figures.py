"""The figures of the monitoring as families of rows, one list for whoever carries them: Prometheus' text, OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from redkeep.monitoring.control import STATES, Control
from redkeep.monitoring.events import EventType

Row = tuple[tuple[str, ...], float]

_NODE_GAUGES: Final = {
    "clients": "Connected clients",
    "memory_used_bytes": "Memory allocated by Redis, bytes",
    "memory_limit_bytes": "maxmemory, bytes",
    "hit_ratio": "Share of lookups that were hits since the server started, 0 to 1",
    "keys": "Keys in all databases",
    "uptime_seconds": "Seconds since the server started",
}
_NODE_COUNTERS: Final = {
    "commands": "Commands run by the server",
    "hits": "Lookups that found a key",
    "misses": "Lookups that found no key",
    "evicted": "Keys evicted because memory was full",
    "expired": "Keys that expired",
    "connections_rejected": "Connections refused because of maxclients",
}
_FROM_ZERO: Final[tuple[EventType, ...]] = (
    "auth_attempt", "permission_denied", "tls_failure", "decryption_failure", "downgrade_refused", "brute_force", "node_down",
    "alert_not_delivered",
)  # fmt: skip
"""Failures that show as 0 before the first: to Prometheus a counter that begins at 10 has not increased."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One metric: `rows` are values with one text for each of `labels`. Counters grow until their source starts anew."""

    name: str
    text: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What the families are made of, as MonitoringService gives it; times in seconds since the epoch."""

    controls: Sequence[Control]
    checked_at: float
    totals: Mapping[tuple[EventType, bool], int]
    nodes: Sequence[Mapping[str, Any]]
    certificates: Sequence[Mapping[str, Any]]
    encryption: Mapping[str, Any]
    alerts: Mapping[str, Any]

    def families(self) -> tuple[Family, ...]:
        """Always the same families in the same order; those of which nothing is known have no rows."""
        return (*self._posture(), *self._events(), *self._nodes(), *self._rest())

    def _posture(self) -> Iterator[Family]:
        yield Family(
            name="posture", text="1 for the current state of each control of the posture", kind="gauge", labels=("control", "state"),
            rows=tuple(((each.name, state), float(each.state == state)) for each in self.controls for state in STATES),
        )  # fmt: skip
        yield Family(
            name="posture_checked_timestamp_seconds", text="When the posture was last checked", kind="gauge", rows=_one(self.checked_at)
        )

    def _events(self) -> Iterator[Family]:
        totals = {**{(kind, False): 0 for kind in _FROM_ZERO}, **self.totals}
        yield Family(
            name="security_events", text="Security events by kind", kind="counter", labels=("kind", "success"),
            rows=tuple(((kind, str(success).lower()), float(total)) for (kind, success), total in totals.items()),
        )  # fmt: skip
        yield Family(
            name="alert_active", text="1 for each alert that is firing", kind="gauge", labels=("kind",),
            rows=tuple(((str(each["kind"]),), 1.0) for each in self.alerts["active"]),
        )  # fmt: skip
        yield Family(
            name="alert_deliveries", text="Alerts by channel and delivery result", kind="counter", labels=("channel", "result"),
            rows=tuple(
                ((str(each["name"]), result), float(each[result]))
                for each in self.alerts["channels"] if "failed" in each for result in ("delivered", "failed")
            ),
        )  # fmt: skip

    def _nodes(self) -> Iterator[Family]:
        known = [node for node in self.nodes if node["state"] != "unknown"]
        up = [node for node in known if node["state"] == "up"]
        yield Family(
            name="node_up", text="1 while the node answers the user monitor", kind="gauge", labels=("node",),
            rows=tuple(((str(node["node"]),), float(node["state"] == "up")) for node in known),
        )  # fmt: skip
        yield Family(
            name="node_latency_seconds", text="How long the last INFO took", kind="gauge", labels=("node",),
            rows=tuple(((str(node["node"]),), node["latency_ms"] / 1000) for node in up),
        )  # fmt: skip
        for name, text in _NODE_GAUGES.items():
            yield Family(name=f"node_{name}", text=text, kind="gauge", labels=("node",), rows=_of(up, name))
        for name, text in _NODE_COUNTERS.items():
            yield Family(name=f"node_{name}", text=text, kind="counter", labels=("node",), rows=_of(up, f"{name}_total"))

    def _rest(self) -> Iterator[Family]:
        yield Family(
            name="certificate_seconds_left", text="Seconds until a certificate expires", kind="gauge", labels=("whose", "node"),
            rows=tuple(((str(each["whose"]), str(each["node"] or "")), float(each["seconds_left"])) for each in self.certificates),
        )  # fmt: skip
        sealed, failed = self.encryption["total_operations"], self.encryption["error_count"]
        yield Family(name="encryption_operations", text="Values encrypted and decrypted", kind="counter", rows=_one(sealed))
        yield Family(name="encryption_errors", text="Values that could not be encrypted or decrypted", kind="counter", rows=_one(failed))


def _one(value: float) -> tuple[Row, ...]:
    return (((), float(value)),)


def _of(nodes: Sequence[Mapping[str, Any]], field: str) -> tuple[Row, ...]:
    return tuple(((str(node["node"]),), float(node[field])) for node in nodes if node.get(field) is not None)
