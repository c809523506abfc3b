"""Which controls have changed since the last probe, also one before a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redkeep.monitoring.across_nodes import place
from redkeep.monitoring.control import STATES, State
from redkeep.monitoring.events import SecurityMonitor, Severity
from redkeep.monitoring.posture import Posture

_SEVERITIES: Final[Mapping[State, Severity]] = {"weak": "error", "unknown": "warning", "ok": "info", "not applicable": "info"}


class PostureChanges:
    """The states of the last posture, by control and node."""

    def __init__(self, monitor: SecurityMonitor) -> None:
        self._monitor = monitor
        self._states: dict[str, State] = {}

    def note(self, posture: Posture) -> bool:
        """Record a `posture_changed` for each control of each node that is in another state than last time; whether anything is.

        The first posture ever is no change, and neither is a new control that holds.
        """
        before, self._states = self._states, {place(*row): row[1].state for row in posture.rows}
        for node, control in posture.rows:
            old, severity = before.get(place(node, control)), _SEVERITIES[control.state]
            if before and control.state != old and (old or severity != "info"):
                where: dict[str, Any] = {"node": node} if node else {}
                self._monitor.record(
                    "posture_changed", success=severity == "info", severity=severity, control=control.name, **where, state=control.state,
                    before=old or "", evidence=control.evidence, remedy=control.remedy,
                )  # fmt: skip
        return before != self._states

    def snapshot(self) -> dict[str, Any]:
        """The states, as plain data."""
        return dict(self._states)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back a snapshot. Raises ValueError when it is something else."""
        try:
            self._states = {str(name): STATES[STATES.index(state)] for name, state in saved.items()}
        except AttributeError:
            raise ValueError("no snapshot of a posture") from None
