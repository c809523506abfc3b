"""Which controls have changed since the last probe, also one before a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redkeep.monitoring.across_nodes import place
from redkeep.monitoring.control import STATES, Control, State
from redkeep.monitoring.events import SecurityMonitor, Severity
from redkeep.monitoring.posture import Posture
from redkeep.monitoring.words import listed

_SEVERITIES: Final[Mapping[State, Severity]] = {"weak": "error", "unknown": "warning", "ok": "info", "not applicable": "info"}
_NAMED: Final = 3


class PostureChanges:
    """The states of the last posture, by control and node."""

    def __init__(self, monitor: SecurityMonitor) -> None:
        self._monitor = monitor
        self._states: dict[str, State] = {}

    def note(self, posture: Posture) -> bool:
        """Record a `posture_changed` for each control of each node that is in another state than last time; whether anything is.

        The first posture ever is no change, and neither is a new control that holds. What turns unknown at one node for one
        reason is one event that names the first three: a node that is down would be twenty. What turns weak comes first.
        """
        before, self._states = self._states, {place(*row): row[1].state for row in posture.rows}
        changes: dict[tuple[str, ...], list[Control]] = {}
        for node, control in posture.rows if before else ():
            old = before.get(place(node, control), "")
            if control.state != old and (old or _SEVERITIES[control.state] != "info"):
                one = control.evidence if control.state == "unknown" else control.name
                changes.setdefault((node, control.state, old, one), []).append(control)
        for (node, _, old, _), controls in sorted(changes.items(), key=lambda each: each[1][0].state != "weak"):
            first, severity = controls[0], _SEVERITIES[controls[0].state]
            where: dict[str, Any] = {"node": node} if node else {}
            self._monitor.record(
                "posture_changed", success=severity == "info", severity=severity,
                control=listed([control.name for control in controls], most=_NAMED), **where,
                state=first.state, before=old, evidence=first.evidence, remedy=first.remedy,
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
