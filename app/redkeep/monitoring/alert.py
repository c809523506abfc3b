"""An alert: what is told to people, in words that are harmless wherever they are shown; and the form of a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

AlertState = Literal["firing", "resolved", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """`kind` tells alerts of one cause apart from others; `details` are short plain values."""

    kind: str
    title: str
    message: str
    severity: str
    state: AlertState
    timestamp: datetime
    host: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The alert as plain data; the PRD's four names and ours."""
        return {
            "timestamp": self.timestamp.isoformat(), "title": self.title, "message": self.message, "severity": self.severity,
            "kind": self.kind, "state": self.state, "host": self.host, "details": dict(self.details),
        }  # fmt: skip


class Channel(Protocol):
    """A way to people. `send` ends within `deadline_seconds`, or is cancelled then."""

    name: str
    deadline_seconds: float

    async def send(self, alert: Alert) -> None:
        """Deliver, or raise AlertError: `again` says whether another try can help."""
        ...
