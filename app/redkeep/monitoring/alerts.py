"""The alert manager: from how many events on people are told, how often, and that it is over.

A kind of alert has one state. It fires when its threshold is reached, is repeated after the cooldown while it lasts or comes
again, and its end is told once. What makes it worse is told at once: guessing, another weak control; one that was told
within the cooldown, and has healed in between, is not another.
Each channel delivers by itself: one that hangs or fails holds up neither the others nor the cache.
What is owed to a channel is kept before it is sent and struck out after: a process that is killed owes it still, so an
alert is told at least once, and twice only when the end came in between.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

from redkeep.errors import AlertError
from redkeep.monitoring.alert import Alert, AlertState, Channel
from redkeep.monitoring.alert_mail import MailChannel
from redkeep.monitoring.alert_settings import AlertSettings
from redkeep.monitoring.alert_webhook import WebhookChannel
from redkeep.monitoring.events import BRUTE_FORCE_MINUTES, EventType, SecurityMonitor
from redkeep.monitoring.words import Redactor, harmless, listed

logger = logging.getLogger(__name__)

PAUSES: Final = (1.0, 4.0)
"""Seconds before the second and the third try; there is no fourth."""

_RECENT: Final = 50
_NAMED: Final = 8
"""Weak controls that an alert names, each with its remedy."""

_UNDER_WAY: Final = 32
"""Deliveries at once; with a dozen kinds and their cooldown there are never that many unless a channel hangs."""

_COUNTED: Final[dict[str, tuple[str, str, tuple[EventType, ...]]]] = {
    "auth_failures_per_hour": ("High Authentication Failures", "failed logins", ("auth_attempt",)),
    "encryption_errors_per_hour": (
        "Encryption Errors Detected", "values that could not be decrypted", ("decryption_failure", "downgrade_refused"),
    ),
    "connection_failures_per_hour": ("Connection Failures Detected", "failed connections", ("node_down", "tls_failure")),
}  # fmt: skip


class _Cause(NamedTuple):
    """Why a kind fires now. `names` makes it another cause when a name comes to it."""

    title: str
    message: str
    severity: str
    details: Mapping[str, Any]
    names: frozenset[str] = frozenset()


class _Firing(NamedTuple):
    """`alert` as it was told, and as it is `now`: of several weak controls some may hold again."""

    alert: Alert
    told_at: float
    names: frozenset[str]
    now: Alert


class SimpleAlertManager:
    """The PRD's class: `check_and_send_alerts` compares the last hour with the thresholds and tells the channels."""

    def __init__(
        self,
        monitor: SecurityMonitor | None = None,
        *,
        settings: AlertSettings | None = None,
        channels: Sequence[Channel] | None = None,
        private: Sequence[str | None] = (),
        keep: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watches `monitor`. Settings are those of the environment unless given; `private` are secrets that never stand in
        an alert. `keep` writes `snapshot` where it survives: it is awaited before an alert is sent and after.

        Raises ConfigurationError for alert settings that do not hold.
        """
        self.settings = AlertSettings.read(os.environ) if settings is None else settings
        self.alert_thresholds = dict(self.settings.thresholds)
        self._monitor = SecurityMonitor() if monitor is None else monitor
        self._channels = tuple(_channels(self.settings) if channels is None else channels)
        self._redact = Redactor((*self.settings.secrets, *private))
        self._clock = clock
        self._host = harmless(socket.gethostname())
        self._firing: dict[str, _Firing] = {}
        self._told: dict[str, float] = {}
        self._told_names: dict[str, dict[str, float]] = {}
        self._recent: deque[Alert] = deque(maxlen=_RECENT)
        self._results: dict[str, dict[str, Any]] = {
            each.name: {"delivered": 0, "failed": 0, "last_delivered": None, "last_error": ""} for each in self._channels
        }
        self._keep = keep
        self._owed: dict[tuple[str, str], Alert] = {}
        self._deliveries: dict[tuple[str, str], asyncio.Task[None]] = {}

    @property
    def alert_channels(self) -> dict[str, bool]:
        """Which channels are on; the log always is."""
        there = {each.name for each in self._channels}
        return {"log": True, "email": "email" in there, "webhook": "webhook" in there}

    async def check_and_send_alerts(self, weak: Mapping[str, str] | None = None, *, unknown: Collection[str] = ()) -> list[Alert]:
        """Tell what is new, lasts or is over; returns those alerts without waiting for their delivery.

        `weak` maps a weak control of the posture, or of one of its nodes, to its remedy; None leaves the posture as it was told. `unknown`
        are the controls that nobody could tell: one that was weak counts as weak still.
        """
        causes = {kind: cause for kind in _COUNTED if (cause := self._counted(kind))}
        told = self._firing.get("posture")
        unseen = told.names & set(unknown) if told else frozenset()
        not_seen = f"Cannot be checked now, was weak: {listed(sorted(unseen), most=_NAMED)}" if unseen else ""
        if told and unseen and weak == {}:
            self._firing["posture"] = told._replace(names=unseen, now=replace(told.now, message=not_seen, details={}))
            weak = None
        if weak:
            causes["posture"] = _Cause(
                "Posture Weakened",
                f"Weak: {listed(sorted(weak), most=_NAMED)}" + (f". {not_seen}" if unseen else ""),
                "error",
                {name: remedy or "see `redkeep status`" for name, remedy in sorted(weak.items())[:_NAMED]},
                frozenset(weak) | unseen,
            )
        asked = {*_COUNTED, *(() if weak is None else ("posture",))}
        found = [alert for kind in sorted(asked) if (alert := self._step(kind, causes.get(kind)))]
        for alert in found:
            self._tell(alert)
        self._deliver_owed()
        return found

    async def send_test_alert(self) -> dict[str, dict[str, Any]]:
        """Send a test through every channel, once each: {"email": {"ok": True, "detail": ""}, ...}."""
        alert = self._alert("test", "Test", "This is a test. Nothing is wrong.", "info", "test", {})
        self._log(alert)
        found = await asyncio.gather(*(self._try(each, alert) for each in self._channels))
        results = {each.name: {"ok": error is None, "detail": str(error or "")} for each, error in zip(self._channels, found, strict=True)}
        return {"log": {"ok": True, "detail": ""}, **results}

    def report(self) -> dict[str, Any]:
        """Thresholds, channels with what became of their deliveries, alerts that last, and the last ones, latest first."""
        return {
            "thresholds": dict(self.alert_thresholds),
            "cooldown_seconds": self.settings.cooldown_seconds,
            "channels": [
                {"name": name, "enabled": on, **self._results.get(name, {})} for name, on in self.alert_channels.items()
            ],
            "active": [firing.now.as_dict() for firing in self._firing.values()],
            "recent": [alert.as_dict() for alert in reversed(self._recent)],
        }

    async def close(self, *, seconds: float = 5.0) -> None:
        """Give what is under way `seconds` more, then end it: it stays owed."""
        if self._deliveries:
            _, late = await asyncio.wait(self._deliveries.values(), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def snapshot(self) -> dict[str, Any]:
        """What has been told and lasts, and what is owed, as plain data: a restart tells it neither again nor never ends it."""
        return {
            "firing": {kind: [each.alert.as_dict(), each.told_at, sorted(each.names)] for kind, each in self._firing.items()},
            "told": dict(self._told),
            "told_names": {kind: dict(names) for kind, names in self._told_names.items()},
            "owed": [[channel, alert.as_dict()] for (_, channel), alert in self._owed.items()],
            "recent": [alert.as_dict() for alert in self._recent],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back a snapshot; what it owes is sent by the next check. Raises ValueError when it is something else."""
        try:
            firing = {
                str(kind): _Firing(Alert.from_dict(alert), float(told), frozenset(names), Alert.from_dict(alert))
                for kind, (alert, told, names) in saved["firing"].items()
            }
            told_at = {str(kind): float(moment) for kind, moment in saved["told"].items()}
            told_names = {
                str(kind): {str(name): float(moment) for name, moment in names.items()} for kind, names in saved.get("told_names", {}).items()
            }
            owed = [(channel, Alert.from_dict(alert)) for channel, alert in saved["owed"]]
            recent = [Alert.from_dict(alert) for alert in saved["recent"]]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no snapshot of alerts: {type(error).__name__}") from None
        self._firing, self._told, self._told_names = firing, told_at, told_names
        self._recent = deque(recent, maxlen=_RECENT)
        self._owed = {(alert.id, channel): alert for channel, alert in owed if channel in self._results}

    def _counted(self, kind: str) -> _Cause | None:
        title, what, kinds = _COUNTED[kind]
        count = sum(self._monitor.count(each, hours=1) for each in kinds)
        guessing = kind == "auth_failures_per_hour" and self._monitor.count("brute_force", hours=BRUTE_FORCE_MINUTES / 60) > 0
        if count < self.alert_thresholds[kind] and not guessing:
            return None
        details: dict[str, Any] = {"count": count, "threshold": self.alert_thresholds[kind]}
        if kind == "auth_failures_per_hour":
            details |= {name: ", ".join(f"{k} ({n})" for k, n in c.items()) for name, c in self._monitor.sources("auth_attempt", hours=1).items()}
        message = f"{count} {what} in the last hour" + ("; somebody is guessing passwords" if guessing else "")
        return _Cause(title, message, "error" if guessing else "warning", details, frozenset(["guessing"] if guessing else []))

    def _step(self, kind: str, cause: _Cause | None) -> Alert | None:
        firing, now = self._firing.get(kind), self._clock()
        if cause is None:
            if firing is None:
                return None
            del self._firing[kind]
            return self._alert(kind, firing.alert.title, f"Over: {firing.alert.message}", "info", "resolved", {})
        told, quiet = self._told_names.setdefault(kind, {}), now - self.settings.cooldown_seconds
        known = firing.names if firing else frozenset()
        news = {name for name in cause.names - known if told.get(name, -math.inf) <= quiet}
        if self._told.get(kind, -math.inf) > quiet and not news:
            if firing:  # what was told of guessing stays told; of a posture, what is weak now counts
                is_now = replace(firing.now, message=self._redact(cause.message), details=self._redacted(cause.details))
                self._firing[kind] = firing._replace(names=cause.names if kind == "posture" else firing.names, now=is_now)
            return None  # it lasts, or it goes up and down
        alert = self._alert(kind, cause.title, cause.message, cause.severity, "firing", cause.details)
        self._firing[kind] = _Firing(alert, now, cause.names, alert)
        self._told[kind] = now
        self._told_names[kind] = {name: moment for name, moment in told.items() if moment > quiet} | dict.fromkeys(cause.names, now)
        return alert

    def _alert(self, kind: str, title: str, message: str, severity: str, state: AlertState, details: Mapping[str, Any]) -> Alert:
        return Alert(
            id=secrets.token_hex(8), kind=kind, title=title, message=self._redact(message), severity=severity, state=state, host=self._host,
            timestamp=datetime.fromtimestamp(self._clock(), UTC),
            details=self._redacted(details),
        )  # fmt: skip

    def _redacted(self, details: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._redact(value) if isinstance(value, str) else value for name, value in details.items()}

    def _tell(self, alert: Alert) -> None:
        self._recent.append(alert)
        self._log(alert)
        self._monitor.record(
            "alert", success=True, alert=alert.kind, state=alert.state, title=alert.title, told=alert.message,
            channels=", ".join(channel.name for channel in self._channels),
        )  # fmt: skip
        self._owed.update({(alert.id, channel.name): alert for channel in self._channels})

    def _deliver_owed(self) -> None:
        channels = {channel.name: channel for channel in self._channels}
        for debt, alert in list(self._owed.items()):
            if debt in self._deliveries:
                continue
            if len(self._deliveries) >= _UNDER_WAY:
                del self._owed[debt]
                self._failed(channels[debt[1]], alert, AlertError("too many deliveries are in progress"))
                continue
            task = asyncio.create_task(self._deliver(channels[debt[1]], alert))
            self._deliveries[debt] = task
            task.add_done_callback(partial(self._ended, debt))

    def _ended(self, debt: tuple[str, str], _: asyncio.Task[None]) -> None:
        self._deliveries.pop(debt, None)

    def _log(self, alert: Alert) -> None:
        level = logging.WARNING if alert.state == "firing" else logging.INFO
        extra = {f"alert_{name}": value for name, value in alert.as_dict().items()}
        logger.log(level, "security_alert", extra=extra)

    async def _deliver(self, channel: Channel, alert: Alert) -> None:
        await self._kept()
        error = await self._try(channel, alert)
        for pause in PAUSES:
            if error is None or not error.again:
                break
            await asyncio.sleep(pause)
            error = await self._try(channel, alert)
        if error is not None:
            self._failed(channel, alert, error)
        self._owed.pop((alert.id, channel.name), None)
        await self._kept()

    async def _kept(self) -> None:
        if self._keep is not None:
            await self._keep()

    async def _try(self, channel: Channel, alert: Alert) -> AlertError | None:
        result = self._results[channel.name]
        try:
            await asyncio.wait_for(channel.send(alert), channel.deadline_seconds)
        except AlertError as error:
            problem = error
        except TimeoutError:
            problem = AlertError(f"not finished within {channel.deadline_seconds:g} seconds", again=True)
        except Exception as error:  # a channel's fault is its own
            problem = AlertError(f"failed unexpectedly ({type(error).__name__})")
        else:
            result.update(delivered=result["delivered"] + 1, last_delivered=_iso(self._clock()), last_error="")
            return None
        result["last_error"] = str(problem)
        return problem

    def _failed(self, channel: Channel, alert: Alert, error: AlertError) -> None:
        self._results[channel.name]["failed"] += 1
        self._monitor.record("alert_not_delivered", severity="error", channel=channel.name, alert=alert.kind, reason=str(error))


def _channels(settings: AlertSettings) -> list[Channel]:
    found: list[Channel] = []
    if settings.mail:
        found.append(MailChannel(settings.mail))
    if settings.webhook:
        found.append(WebhookChannel(settings.webhook))
    return found


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
