"""An alert: what is told to people, in words that are harmless wherever they are shown; and the form of a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, Self

AlertState = Literal["firing", "resolved", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """`kind` tells alerts of one cause apart from others; `details` are short plain values.

    `id` is the same on every channel and at every try: who is killed between delivering and noting it delivers again.
    """

    id: str
    kind: str
    title: str
    message: str
    severity: str
    state: AlertState
    timestamp: datetime
    host: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The alert that `as_dict` made plain. Raises TypeError, KeyError or ValueError when it is something else."""
        return cls(**{**plain, "timestamp": datetime.fromisoformat(plain["timestamp"]), "details": dict(plain["details"])})

    def as_dict(self) -> dict[str, Any]:
        """The alert as plain data; the PRD's four names and ours."""
        return {
            "id": self.id, "timestamp": self.timestamp.isoformat(), "title": self.title, "message": self.message, "severity": self.severity,
            "kind": self.kind, "state": self.state, "host": self.host, "details": dict(self.details),
        }  # fmt: skip


class Channel(Protocol):
    """A way to people. `send` ends within `deadline_seconds`, or is cancelled then."""

    name: str
    deadline_seconds: float

    async def send(self, alert: Alert) -> None:
        """Deliver, or raise AlertError: `again` says whether another try can help."""
        ...
