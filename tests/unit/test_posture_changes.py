"""Which changes of the posture are events: one for each control and node, and one for all that nobody could tell for one reason."""

from __future__ import annotations

from redkeep.monitoring.control import Control, State
from redkeep.monitoring.events import SecurityMonitor
from redkeep.monitoring.posture import Posture
from redkeep.monitoring.posture_changes import PostureChanges

NAMES = ("login", "TLS version", "mutual TLS", "default user", "network reach")


def posture(node: str, *states: State, evidence: str = "seen") -> list[tuple[str, Control]]:
    return [(node, Control(name, state, evidence)) for name, state in zip(NAMES, states, strict=False)]


def told(*postures: list[tuple[str, Control]]) -> list[tuple[str, str | None, str, str]]:
    """Control, node, state and severity of the events of these postures, one after the other."""
    monitor = SecurityMonitor()
    changes = PostureChanges(monitor)
    for rows in postures:
        changes.note(Posture((), tuple(rows)))
    return [(e.details["control"], e.details.get("node"), e.details["state"], e.severity) for e in monitor.security_events]


def test_a_node_that_is_down_is_one_event() -> None:
    """With the first three by name and the number of the others; what was weak before is one of its own, what turned weak comes first."""
    before = [*posture("a:1", "ok", "ok", "weak", "ok", "ok"), *posture("b:1", "ok")]
    after = [*posture("a:1", "unknown", "unknown", "unknown", "unknown", "unknown", evidence="no answer"), *posture("b:1", "weak")]
    assert [
        ("login", "b:1", "weak", "error"),
        ("login, TLS version, default user and 1 more", "a:1", "unknown", "warning"),
        ("mutual TLS", "a:1", "unknown", "warning"),
    ] == told(before, after)


def test_two_reasons_are_two_events() -> None:
    """Nothing is said of a control that was not found of it."""
    after = [("", Control("login", "unknown", "no answer")), ("", Control("TLS version", "unknown", "no rights"))]
    assert [("login", None, "unknown", "warning"), ("TLS version", None, "unknown", "warning")] == told(posture("", "ok", "ok"), after)


def test_what_holds_again_is_told_by_control() -> None:
    """The first posture, and a control that holds and is new, are no change."""
    before, after = posture("", "weak", "unknown", "ok"), posture("", "ok", "ok", "ok", "ok")
    assert [("login", None, "ok", "info"), ("TLS version", None, "ok", "info")] == told(before, after, after)
