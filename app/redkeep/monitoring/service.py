"""The monitoring of one process: watcher, posture, events, metrics and alerts, kept going in the background.

What has been counted, the place in the servers' logs, and what is owed to the alert channels are written together, to one
file, after each look that found something and before an alert is sent: whoever is killed in between counts it again from
the log, and once, and sends what was owed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from redkeep.environment import read_env_file
from redkeep.monitoring import otlp
from redkeep.monitoring.across_nodes import targets
from redkeep.monitoring.alert_settings import AlertSettings
from redkeep.monitoring.alerts import SimpleAlertManager
from redkeep.monitoring.any_password import Tried
from redkeep.monitoring.certificates import certificates
from redkeep.monitoring.events import EventType, SecurityEvent, SecurityMonitor
from redkeep.monitoring.figures import Family, Figures
from redkeep.monitoring.keeper import Keeper
from redkeep.monitoring.key_ages import KeyAges
from redkeep.monitoring.metrics import SecurityMetricsCollector
from redkeep.monitoring.monitor_settings import MonitorSettings
from redkeep.monitoring.node import Node
from redkeep.monitoring.posture import Posture, assess
from redkeep.monitoring.posture_changes import PostureChanges
from redkeep.monitoring.status import security_fields
from redkeep.monitoring.watcher import Watcher
from redkeep.monitoring.words import Redactor
from redkeep.optimization import SecurityOptimizationConfig
from redkeep.target import read_target

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
"""Between two looks at a node: INFO and, when its counters grew, the new head of ACL LOG."""

_CLOSE_STEPS: Final = 3
"""Network steps that a look may still take at the end: connect, INFO, ACL LOG."""

_STALE_INTERVALS: Final = 4
"""A posture older than that many intervals is no longer an answer."""

_HISTORY_HOURS: Final = 6
_HISTORY_STEP_MINUTES: Final = 5
# What a cache notes of itself and no server can see; its refused logins are in the server's log already.
_OWN_EYES: Final = frozenset({"tls_failure", "decryption_failure", "downgrade_refused", "expired_value", "key_rotated"})


class MonitoringService:
    """Everything the API, the dashboard and the command line show. Use in one event loop: `start`, then `close`."""

    def __init__(
        self,
        *,
        env_file: Path | None = None,
        state_file: Path | Literal["environment"] | None = "environment",
        interval: float | None = None,
        timeout: float = 3.0,
        alerts: AlertSettings | None = None,
    ) -> None:
        """From `env_file`, or this process's environment: the cache's variables, REDIS_MONITOR_PASSWORD, SECURITY_ALERT_...

        SECURITY_MONITOR_NODES names the nodes to watch and to probe (`host:port`, separated by commas) when there are more than the one
        of REDIS_URL, SECURITY_MONITOR_USERS the Redis users besides Redkeep's that are expected there. The state file is
        SECURITY_MONITOR_STATE_FILE, or lies in systemd's STATE_DIRECTORY, or there is none.
        `interval` is the seconds a posture stays valid, `timeout` those of each network step; `alerts` replaces the
        environment's alert settings.
        Raises ConfigurationError with one sentence.
        """
        variables: Mapping[str, str] = read_env_file(env_file) if env_file else os.environ
        self._target = read_target(env_file)
        self._timeout = timeout
        self.interval = SecurityOptimizationConfig().metrics_collection_interval if interval is None else interval
        self.monitor = SecurityMonitor()
        self.collector = SecurityMetricsCollector()
        self._encryption = self.collector
        target = self._target
        secrets = (target.password, target.janitor_password, target.health_password, target.monitor_password, *target.keys)
        self._manager = SimpleAlertManager(
            self.monitor, settings=alerts or AlertSettings.read(variables), private=secrets, keep=self._save
        )
        self._changes = PostureChanges(self.monitor)
        self._keys = KeyAges(target.keys)
        settings = MonitorSettings.read(variables)
        self._users = settings.users
        self._nodes = settings.nodes
        self._tried = Tried()
        watched = [target._replace(address=address) for address in settings.nodes] or [target]
        nodes = [Node(each, timeout=timeout) for each in watched] if target.monitor_password else []
        self._watcher = Watcher(nodes, self.monitor, redact=Redactor(secrets))
        self.monitor.subscribe(self._counted)
        self._posture: Posture | None = None
        self._posture_at = 0.0
        self._certificates: list[dict[str, Any]] = []
        self._probing = asyncio.Lock()
        self._keeper = Keeper(
            settings.state_file if state_file == "environment" else state_file,
            {"events": self.monitor, "watcher": self._watcher, "alerts": self._manager, "keys": self._keys, "posture": self._changes},
            self.monitor,
        )
        self._otlp_endpoint = settings.otlp_endpoint
        if self._otlp_endpoint:
            otlp.check_endpoint(self._otlp_endpoint)
        self._otlp: otlp.OtlpExport | None = None
        self._families: tuple[Family, ...] = ()
        self._watching: asyncio.Task[None] | None = None
        self._assessing: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._closed = False

    @property
    def watches(self) -> bool:
        """Whether there is a password to watch the servers with."""
        return bool(self._target.monitor_password)

    async def start(self) -> None:
        """Take up the saved state and go on in the background; Redis may be down."""
        if self._watching:
            return
        if self._otlp_endpoint:
            self._families = self._figures().families()
            self._otlp = otlp.OtlpExport(self._otlp_endpoint, lambda: self._families, interval=self.interval)
        self._keeper.restore()
        rotated = self._keys.note(time.time())
        if rotated:
            self.monitor.record("key_rotated", success=True, before=rotated[0], key_id=rotated[1])
        await self._keeper.save()
        self._watching = asyncio.create_task(self._forever(self.look, LOOK_SECONDS))
        self._assessing = asyncio.create_task(self._forever(self.probe, self.interval))

    async def close(self) -> None:
        """End the background work, write the state, end the connections. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        whole = True
        if self._watching and self._assessing:
            self._assessing.cancel()
            # A look is not cut in two: what a thread has read and nobody has counted would be lost.
            _, late = await asyncio.wait([self._watching], timeout=_CLOSE_STEPS * self._timeout)
            whole = not late
            self._watching.cancel()
            await asyncio.gather(self._watching, self._assessing, return_exceptions=True)
        await self._manager.close()
        if self._watching and whole:
            await self._keeper.save()
        if self._otlp:
            await asyncio.to_thread(self._otlp.close)
        self._watcher.close()
        self._keeper.close()

    def include(self, monitor: SecurityMonitor, metrics: SecurityMetricsCollector | None = None) -> None:
        """Take in what a cache of this process notes: values that do not open, TLS that fails, its logins, its cipher counts."""
        monitor.subscribe(self._noted)
        if metrics:
            self._encryption = metrics
            self.collector.record_auth_attempt(True, count=metrics.metrics["auth_attempts"]["success"])  # those before now

    async def look(self) -> None:
        """Look at every node once, and tell what is to be told."""
        changed = await self._watcher.look()
        if await self._manager.check_and_send_alerts() or changed:
            await self._keeper.save()
        if self._otlp:
            self._families = self._figures().families()  # made here and read in the exporter's thread

    async def probe(self) -> None:
        """Find out the posture anew."""
        async with self._probing:
            posture = await asyncio.to_thread(
                assess, self._target, timeout=self._timeout, users=self._users, nodes=self._nodes, tried=self._tried
            )
            self._certificates = await asyncio.to_thread(certificates, targets(self._target, self._nodes), timeout=self._timeout)
            self._posture, self._posture_at = posture, time.time()
        changed = self._changes.note(posture)
        if await self._manager.check_and_send_alerts(posture.places("weak"), unknown=posture.places("unknown")) or changed:
            await self._keeper.save()

    async def security_status(self) -> dict[str, Any]:
        """The PRD's five fields, and `state`, `summary`, `checked_at`, `posture`, `key_ages`, `certificates`.

        From the last probe, at most `interval` seconds and a probe's own time old; without one, or when it is older than
        four intervals, the caller waits for a new one.
        """
        if self._posture is None or time.time() - self._posture_at > _STALE_INTERVALS * self.interval:
            waited_for = self._posture_at
            async with self._probing:
                pass
            if self._posture is None or self._posture_at == waited_for:
                await self.probe()
        posture = self._posture or Posture(())
        return {
            **security_fields(posture),
            "recent_auth_failures": self.monitor.get_failure_count(24) if self.watches else None,
            "state": posture.state,
            "summary": posture.summary,
            "checked_at": _iso(self._posture_at),
            "posture": [control.as_dict() for control in posture.controls],
            "key_ages": self._keys.ages(time.time()),
            "certificates": list(self._certificates),
        }

    def events(
        self, kind: str | None = None, severity: str | None = None, since: datetime | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The last events, latest first, at most `limit`; `since` has a time zone."""
        found = [
            event.as_dict()
            for event in sorted(self.monitor.security_events, key=lambda event: event.timestamp, reverse=True)
            if kind in (None, event.type) and severity in (None, event.severity) and (since is None or event.timestamp >= since)
        ]
        return found[: max(0, limit)]

    def metrics(self) -> dict[str, Any]:
        """`summary` as the PRD has it, `rates` of the last hour, `totals` by kind, `history` for plots."""
        now = time.time()
        start = now - _HISTORY_HOURS * 3600
        kinds: dict[str, EventType] = {"auth_failures": "auth_attempt", "permission_denied": "permission_denied"}
        series = {
            name: [
                {"time": _iso(at), "count": count}
                for at, count in self.monitor.tally(kind).series(start=start, end=now, step=_HISTORY_STEP_MINUTES)
            ]
            for name, kind in kinds.items()
        }
        count = self.monitor.count
        return {
            "summary": self._summary(),
            "rates": {
                "auth_failures_per_hour": count("auth_attempt", hours=1),
                "permission_denied_per_hour": count("permission_denied", hours=1),
                "encryption_errors_per_hour": count("decryption_failure", hours=1) + count("downgrade_refused", hours=1),
                "connection_failures_per_hour": count("node_down", hours=1) + count("tls_failure", hours=1),
            },
            "totals": [
                {"kind": kind, "success": success, "count": total} for (kind, success), total in self.monitor.totals().items()
            ],
            "history": {"step_seconds": _HISTORY_STEP_MINUTES * 60, **series, "latency": self._watcher.latencies()},
        }

    def metrics_text(self) -> str:
        """The figures in Prometheus' text format. Raises ConfigurationError when prometheus-client is not installed."""
        from redkeep.monitoring.exposition import exposition

        return exposition(self._figures())

    def alerts(self) -> dict[str, Any]:
        """Thresholds, channels, alerts that last, and the last ones."""
        return self._manager.report()

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are watched; one of state "unknown", with the reason, when there is no password to watch with."""
        if not self.watches:
            reason = "REDIS_MONITOR_PASSWORD is not set: only this host's own checks run"
            name = f"{self._target.host}:{self._target.port}"
            return [{"node": name, "state": "unknown", "since": None, "reason": reason, "latency_ms": None}]
        return self._watcher.nodes()

    async def send_test_alert(self) -> dict[str, dict[str, Any]]:
        """A test through every channel: {"log": {"ok": True, "detail": ""}, "email": ...}."""
        return await self._manager.send_test_alert()

    def _summary(self) -> dict[str, Any]:
        own, encryption = self.collector.get_security_summary(), self._encryption.get_security_summary()
        connected = sum(node.get("clients") or 0 for node in self.nodes())
        return {**own, "encryption": encryption["encryption"], "connections": {"active_count": connected}}

    def _figures(self) -> Figures:
        return Figures(
            controls=self._posture.controls if self._posture else (), checked_at=self._posture_at, totals=self.monitor.totals(),
            nodes=self.nodes(), certificates=self._certificates, encryption=self._summary()["encryption"], alerts=self.alerts(),
        )  # fmt: skip

    def _counted(self, event: SecurityEvent) -> None:
        self.collector.record_security_event(event.severity)
        if event.type == "auth_attempt":
            self.collector.record_auth_attempt(event.success, count=event.count)

    def _noted(self, event: SecurityEvent) -> None:
        if event.type == "auth_attempt" and event.success:
            self.collector.record_auth_attempt(True, count=event.count)
        if event.type in _OWN_EYES:
            self.monitor.record(
                event.type, success=event.success, severity=event.severity, username=event.username, count=event.count,
                when=event.timestamp.timestamp(), logged=True, **event.details,
            )  # fmt: skip

    async def _save(self) -> None:
        await self._keeper.save()

    async def _forever(self, work: Any, pause: float) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await work()
            except Exception:  # the next round may succeed; a monitoring that ends in silence is worse
                logger.exception("monitoring_failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(0.1, pause - (time.monotonic() - began)))


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
