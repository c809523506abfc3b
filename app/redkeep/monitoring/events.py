"""Security events: what happened, when, and how often; kept small, counted in time windows, never holding a secret.

Counts live apart from the list: a flood of one kind pushes old events out, but hides no other kind's number.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal

from redkeep.errors import (
    AuthenticationError,
    CertificateError,
    ConfigurationError,
    DecryptionError,
    PermissionDeniedError,
    RedkeepError,
    TLSError,
)

logger = logging.getLogger(__name__)

EventType = Literal[
    "auth_attempt", "permission_denied", "tls_failure", "decryption_failure", "downgrade_refused", "expired_value",
    "configuration_error", "key_rotated", "brute_force",
]
Severity = Literal["info", "warning", "error"]

MAX_EVENTS: Final = 1_000
BRUTE_FORCE_FAILURES: Final = 5
"""Failed logins within the window below that look like guessing; the PRD's number."""

BRUTE_FORCE_MINUTES: Final = 5
_KEPT_MINUTES: Final = 7 * 24 * 60
_LOGS_A_MINUTE: Final = 60
"""Lines a minute and kind; what is beyond is counted, not written: a flood must not fill the disk."""


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """One event. `event["type"]` reads like the PRD's dictionaries."""

    type: EventType
    severity: Severity
    success: bool
    timestamp: datetime
    username: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in ("type", "severity", "success", "timestamp", "username", "details"):
            raise KeyError(name)
        return getattr(self, name)


class SecurityMonitor:
    """The last events, and counts by kind for a week. "Redis is down" is no security event and never comes here."""

    def __init__(self, max_events: int = MAX_EVENTS, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is in seconds since the epoch."""
        self.max_events = max_events
        self._clock = clock
        self._events: deque[SecurityEvent] = deque(maxlen=max_events)
        self._minutes: dict[tuple[EventType, bool], deque[list[int]]] = {}
        self._warned_until = 0.0

    @property
    def security_events(self) -> list[SecurityEvent]:
        """The last events, oldest first."""
        return list(self._events)

    async def log_auth_attempt(self, success: bool, username: str | None = None) -> None:
        """Note a login; the PRD's name and signature."""
        self.record("auth_attempt", success=success, username=username)

    def record(
        self,
        kind: EventType,
        *,
        success: bool = False,
        severity: Severity | None = None,
        username: str | None = None,
        **details: Any,
    ) -> SecurityEvent:
        """Note an event; `details` are short plain values, never a secret. Returns it."""
        now = self._clock()
        event = SecurityEvent(
            kind,
            severity or ("info" if success else "warning"),
            success,
            datetime.fromtimestamp(now, UTC),
            username,
            MappingProxyType(details),
        )
        self._events.append(event)
        if self._count(kind, success, int(now // 60)) <= _LOGS_A_MINUTE:
            level = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}[event.severity]
            logger.log(level, "security_event", extra={"event": kind, "success": success, "user": username, **_renamed(details)})
        if kind == "auth_attempt" and not success:
            self._look_for_guessing(now)
        return event

    def record_error(self, error: RedkeepError, *, username: str | None = None) -> SecurityEvent | None:
        """Note what an error of ours means for security; None when it means nothing, as ServerUnavailableError."""
        kinds: tuple[tuple[type[RedkeepError], EventType], ...] = (
            (AuthenticationError, "auth_attempt"),
            (PermissionDeniedError, "permission_denied"),
            (TLSError, "tls_failure"),
            (CertificateError, "tls_failure"),
            (DecryptionError, "decryption_failure"),
            (ConfigurationError, "configuration_error"),
        )
        for leaf, kind in kinds:
            if isinstance(error, leaf):
                return self.record(kind, username=username, reason=str(error))
        return None

    def count(self, kind: EventType, *, hours: float = 24, success: bool = False) -> int:
        """How many events of `kind` there were in the last `hours`, a week at most; to the minute."""
        first = int((self._clock() - hours * 3600) // 60)
        return sum(number for minute, number in self._minutes.get((kind, success), ()) if minute >= first)

    def get_failure_count(self, hours: float = 24) -> int:
        """How many logins were refused in the last `hours`."""
        return self.count("auth_attempt", hours=hours)

    def _count(self, kind: EventType, success: bool, minute: int) -> int:
        minutes = self._minutes.setdefault((kind, success), deque(maxlen=_KEPT_MINUTES))
        if not minutes or minutes[-1][0] != minute:
            minutes.append([minute, 0])
        minutes[-1][1] += 1
        return minutes[-1][1]

    def _look_for_guessing(self, now: float) -> None:
        if now < self._warned_until or self.count("auth_attempt", hours=BRUTE_FORCE_MINUTES / 60) < BRUTE_FORCE_FAILURES:
            return
        self._warned_until = now + BRUTE_FORCE_MINUTES * 60
        self.record("brute_force", severity="error", failures=self.count("auth_attempt", hours=BRUTE_FORCE_MINUTES / 60))


def _renamed(details: Mapping[str, Any]) -> dict[str, Any]:
    return {f"detail_{name}": value for name, value in details.items()}  # `name`, `args` and the like belong to logging
