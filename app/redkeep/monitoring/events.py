"""Security events: what happened, when, and how often; kept small, counted in time windows, never holding a secret.

Counts live apart from the list: a flood of one kind pushes old events out, but hides no other kind's number.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from redkeep.errors import (
    AuthenticationError,
    CertificateError,
    ConfigurationError,
    DecryptionError,
    PermissionDeniedError,
    RedkeepError,
    TLSError,
)
from redkeep.monitoring.tally import Tally
from redkeep.monitoring.words import TEXT_LENGTH, harmless

logger = logging.getLogger(__name__)

EventType = Literal[
    "auth_attempt", "permission_denied", "tls_failure", "decryption_failure", "downgrade_refused", "expired_value",
    "configuration_error", "key_rotated", "brute_force", "posture_changed", "node_down", "node_up", "client_seen", "probe",
    "alert", "alert_not_delivered", "state_unusable", "api_key_refused",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
Severity = Literal["info", "warning", "error"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)

MAX_EVENTS: Final = 1_000
BRUTE_FORCE_FAILURES: Final = 5
"""Failed logins within the window below that look like guessing; the PRD's number."""

BRUTE_FORCE_MINUTES: Final = 5
_LOGS_A_MINUTE: Final = 60
"""Lines a minute and kind; what is beyond is counted, not written: a flood must not fill the disk."""

_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIELDS: Final = ("type", "severity", "success", "timestamp", "username", "details", "count")


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """One event, or `count` alike that were noted at once. `event["type"]` reads like the PRD's dictionaries."""

    type: EventType
    severity: Severity
    success: bool
    timestamp: datetime
    username: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    def __getitem__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise KeyError(name)
        return getattr(self, name)

    def as_dict(self) -> dict[str, Any]:
        """The event as plain data, its time in ISO 8601 with the zone."""
        plain = {name: getattr(self, name) for name in _FIELDS}
        return {**plain, "timestamp": self.timestamp.isoformat(), "details": dict(self.details)}


Listener = Callable[[SecurityEvent], None]


class SecurityMonitor:
    """The last events, and counts by kind for a week. "Redis is down" is no security event and never counts as one."""

    def __init__(self, max_events: int = MAX_EVENTS, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is in seconds since the epoch."""
        self.max_events = max_events
        self._clock = clock
        self._events: deque[SecurityEvent] = deque(maxlen=max_events)
        self._tallies: dict[tuple[EventType, bool], Tally] = {}
        self._lines: dict[EventType, tuple[int, int]] = {}
        self._listeners: list[Listener] = []
        self._warned_until = 0.0

    @property
    def security_events(self) -> list[SecurityEvent]:
        """The last events, oldest first."""
        return list(self._events)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with each event from now on; it must be quick and not raise."""
        self._listeners.append(listener)

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
        count: int = 1,
        when: float | None = None,
        logged: bool = False,
        **details: Any,
    ) -> SecurityEvent:
        """Note an event, or `count` alike; `details` are short plain values, never a secret. Returns it.

        `when` is in seconds since the epoch, for what happened before it is noted; `logged`: it stands in the log already.
        Names and texts are made harmless here, once for everybody who shows them.
        """
        now = self._clock()
        moment = now if when is None else min(when, now)
        event = SecurityEvent(
            kind,
            severity or ("info" if success else "warning"),
            success,
            datetime.fromtimestamp(moment, UTC),
            None if username is None else harmless(username),
            MappingProxyType({name: _plain(value) for name, value in details.items()}),
            count,
        )
        self._events.append(event)
        self.tally(kind, success).add(moment, count)
        if not logged and self._may_log(kind, int(now // 60)):
            extra = {"event": kind, "success": success, "user": event.username, "event_count": count}
            logger.log(_LEVELS[event.severity], "security_event", extra={**extra, **_renamed(event.details)})
        for listener in self._listeners:
            listener(event)
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

    def tally(self, kind: EventType, success: bool = False) -> Tally:
        """The counts of one kind."""
        return self._tallies.setdefault((kind, success), Tally())

    def count(self, kind: EventType, *, hours: float = 24, success: bool = False) -> int:
        """How many events of `kind` there were in the last `hours`, a week at most; to the minute."""
        return self.tally(kind, success).since(self._clock() - hours * 3600)

    def totals(self) -> dict[tuple[EventType, bool], int]:
        """How many there were of each kind, failed and successful, since the beginning."""
        return {key: tally.total for key, tally in sorted(self._tallies.items())}

    def get_failure_count(self, hours: float = 24) -> int:
        """How many logins were refused in the last `hours`."""
        return self.count("auth_attempt", hours=hours)

    def sources(self, kind: EventType, *, hours: float) -> dict[str, dict[str, int]]:
        """Who caused the events of `kind` that are kept: counts by user name and by address, most first, five at most."""
        first = self._clock() - hours * 3600
        users, addresses = Counter[str](), Counter[str]()
        for event in self._events:
            if event.type == kind and not event.success and event.timestamp.timestamp() >= first:
                users[event.username or "?"] += event.count
                addresses[str(event.details.get("address") or "?")] += event.count
        return {"users": dict(users.most_common(5)), "addresses": dict(addresses.most_common(5))}

    def snapshot(self, *, events: int = 200, hours: float = 24) -> dict[str, Any]:
        """The last events and the counts of the last hours, as plain data for a file."""
        first = self._clock() - hours * 3600
        return {
            "events": [event.as_dict() for event in list(self._events)[-events:]],
            "tallies": [[kind, ok, tally.total, tally.rows(since=first)] for (kind, ok), tally in self._tallies.items()],
            "warned_until": self._warned_until,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back a snapshot in place of what is here. Raises ValueError when it is something else, and changes nothing."""
        tallies: dict[tuple[EventType, bool], Tally] = {}
        try:
            events = [
                SecurityEvent(**{
                    **{name: each[name] for name in _FIELDS}, "count": int(each["count"]), "timestamp": datetime.fromisoformat(each["timestamp"]),
                    "details": MappingProxyType({name: _plain(value) for name, value in each["details"].items()}),
                })
                for each in saved["events"]
                if each["type"] in EVENT_TYPES
            ]  # fmt: skip
            for kind, success, total, rows in saved["tallies"]:
                if kind in EVENT_TYPES:
                    tallies.setdefault((kind, bool(success)), Tally()).restore(total, rows)
            warned_until = min(float(saved["warned_until"]), self._clock() + BRUTE_FORCE_MINUTES * 60)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no snapshot of events: {type(error).__name__}") from None
        self._events = deque(events, maxlen=self.max_events)
        self._tallies, self._warned_until = tallies, warned_until

    def _may_log(self, kind: EventType, minute: int) -> bool:
        last, lines = self._lines.get(kind, (minute, 0))
        lines = lines + 1 if last == minute else 1
        self._lines[kind] = (minute, lines)
        return lines <= _LOGS_A_MINUTE

    def _look_for_guessing(self, now: float) -> None:
        failures = self.count("auth_attempt", hours=BRUTE_FORCE_MINUTES / 60)
        if now < self._warned_until or failures < BRUTE_FORCE_FAILURES:
            return
        self._warned_until = now + BRUTE_FORCE_MINUTES * 60
        who = self.sources("auth_attempt", hours=BRUTE_FORCE_MINUTES / 60)
        listed: dict[str, Any] = {name: ", ".join(counts) for name, counts in who.items()}
        self.record("brute_force", severity="error", failures=failures, **listed)


def _plain(value: Any) -> Any:
    """A value as it may be kept: numbers as they are, everything else as short harmless text."""
    return value if value is None or isinstance(value, bool | int | float) else harmless(str(value), limit=TEXT_LENGTH)


def _renamed(details: Mapping[str, Any]) -> dict[str, Any]:
    return {f"detail_{name}": value for name, value in details.items()}  # `name`, `args` and the like belong to logging
