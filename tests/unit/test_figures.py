"""The figures for Prometheus and OpenTelemetry: what is known has a row, what is not has none, and units are what the names say."""

from __future__ import annotations

from typing import Any

from redkeep.monitoring.control import Control
from redkeep.monitoring.figures import Figures, Row

UP: dict[str, Any] = {"node": "a:1", "state": "up", "latency_ms": 250.0, "clients": 4, "hits_total": 9, "hit_ratio": None}
CHANNELS = [{"name": "log"}, {"name": "email", "delivered": 3, "failed": 1}]


def rows(**changes: Any) -> dict[str, tuple[Row, ...]]:
    """Family -> rows, of a monitoring that has seen nothing but `changes`."""
    nothing: dict[str, Any] = {
        "controls": (), "checked_at": 0.0, "totals": {}, "nodes": [], "certificates": [],
        "encryption": {"total_operations": 0, "error_count": 0}, "alerts": {"active": [], "channels": []},
    }  # fmt: skip
    return {family.name: family.rows for family in Figures(**{**nothing, **changes}).families()}


def test_the_same_families_always() -> None:
    """A meter is made once from the first list: nothing may come later."""
    full = rows(
        controls=[Control("login", "ok", "")], nodes=[UP], certificates=[{"whose": "server", "node": "a:1", "seconds_left": 7.0}],
        alerts={"active": [{"kind": "posture"}], "channels": CHANNELS},
    )  # fmt: skip
    assert list(full) == list(rows())
    assert (("server", "a:1"), 7.0) == full["certificate_seconds_left"][0]
    assert (("posture",), 1.0) == full["alert_active"][0]
    assert ((("email", "delivered"), 3.0), (("email", "failed"), 1.0)) == full["alert_deliveries"]


def test_a_control_is_in_one_state() -> None:
    """A row for each state, and 1 for the one."""
    found = dict(rows(controls=[Control("login", "weak", "")])["posture"])
    assert {state: number for (_, state), number in found.items()} == {"ok": 0.0, "weak": 1.0, "unknown": 0.0, "not applicable": 0.0}


def test_failures_show_before_the_first() -> None:
    """As 0, or the first ten would be no increase; what has been counted replaces it."""
    failures = ("auth_attempt", "permission_denied", "tls_failure", "decryption_failure", "downgrade_refused", "brute_force", "node_down")
    found = dict(rows(totals={("auth_attempt", False): 5, ("key_rotated", True): 1})["security_events"])
    assert {(kind, "false") for kind in failures} <= set(found)
    assert (5.0, 0.0, 1.0) == (found["auth_attempt", "false"], found["node_down", "false"], found["key_rotated", "true"])


def test_a_node_shows_what_is_known_of_it() -> None:
    """Up: its figures, seconds for milliseconds; down: 0 and nothing else; never asked, or a figure that it does not have: no row."""
    found = rows(nodes=[UP, {"node": "b:1", "state": "down", "latency_ms": None}, {"node": "c:1", "state": "unknown", "latency_ms": None}])
    assert ((("a:1",), 1.0), (("b:1",), 0.0)) == found["node_up"]
    assert ((("a:1",), 0.25),) == found["node_latency_seconds"]
    assert ((("a:1",), 4.0),) == found["node_clients"]
    assert ((("a:1",), 9.0),) == found["node_hits"]
    assert () == found["node_hit_ratio"] == found["node_misses"]


def test_sealing_and_its_failures() -> None:
    """Each in its own family."""
    found = rows(encryption={"total_operations": 8, "error_count": 2})
    assert ([((), 8.0)], [((), 2.0)]) == (list(found["encryption_operations"]), list(found["encryption_errors"]))
