"""Security metrics: counters for the life of the process, rates for the last hour, the PRD's summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from redkeep.monitoring.tally import Tally

_HOUR: Final = 3600


class SecurityMetricsCollector:
    """Counts logins and cipher operations; `metrics` has the PRD's shape. Recording costs a fraction of a microsecond."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is in seconds since the epoch."""
        self.metrics: dict[str, Any] = {
            "auth_attempts": {"success": 0, "failure": 0},
            "connection_count": 0,
            "encryption_operations": {"encrypt": 0, "decrypt": 0, "errors": 0},
            "security_events": {"info": 0, "warning": 0, "error": 0},
        }
        self._operations: dict[str, int] = self.metrics["encryption_operations"]
        self._clock = clock
        self._failures = Tally()
        self._errors = Tally()

    def record_auth_attempt(self, success: bool, *, count: int = 1) -> None:
        """Count a login, or `count` alike."""
        self.metrics["auth_attempts"]["success" if success else "failure"] += count
        if not success:
            self._failures.add(self._clock(), count)

    def record_encryption_operation(self, operation: str, success: bool) -> None:
        """Count one `encrypt` or `decrypt`, or its failure."""
        if success:
            self._operations[operation] += 1
        else:
            self._operations["errors"] += 1
            self._errors.add(self._clock())

    def record_security_event(self, severity: str) -> None:
        """Count one event by its severity: info, warning or error."""
        self.metrics["security_events"][severity] += 1

    def set_connection_count(self, count: int) -> None:
        """Say how many connections are up."""
        self.metrics["connection_count"] = count

    def get_security_summary(self) -> dict[str, Any]:
        """The PRD's summary. `recent_failures` and `recent_errors` are those of the last hour."""
        attempts = self.metrics["auth_attempts"]
        total = attempts["success"] + attempts["failure"]
        return {
            "authentication": {
                "total_attempts": total,
                "success_rate_percent": round(attempts["success"] / total * 100, 2) if total else 100,
                "recent_failures": self._recent(self._failures),
            },
            "encryption": {
                "total_operations": self._operations["encrypt"] + self._operations["decrypt"],
                "error_count": self._operations["errors"],
                "recent_errors": self._recent(self._errors),
            },
            "connections": {"active_count": self.metrics["connection_count"]},
            "events": dict(self.metrics["security_events"]),
        }

    def _recent(self, moments: Tally) -> int:
        return moments.since(self._clock() - _HOUR)
