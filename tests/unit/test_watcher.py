"""The watcher above its nodes: who is heard when one fails, what is said twice and what once; with nodes that answer what they are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from redkeep.errors import ServerUnavailableError
from redkeep.monitoring import watcher
from redkeep.monitoring.events import SecurityMonitor
from redkeep.monitoring.node import Look
from redkeep.monitoring.server_report import ClientLine
from redkeep.monitoring.watcher import Watcher
from redkeep.monitoring.words import Redactor


class Told:
    """A node that answers what it is told, or raises it."""

    def __init__(self, name: str, *answers: Look | Exception | None) -> None:
        self.name = name
        self.answers = list(answers)
        self.kept: Any = {"run": name}

    def look(self) -> Look | None:
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def snapshot(self) -> Any:
        return self.kept

    def restore(self, saved: Any) -> None:
        self.kept = saved


def seen(*clients: ClientLine, unseen: int = 0, probes: int = 0) -> Look:
    """A look that found clients, and refused logins that the log had lost."""
    counted = Counter(clients) if clients else None
    return Look(figures={}, milliseconds=1.0, denials=[], probes=probes, unseen_logins=unseen, clients=counted, server_time=0.0)


def watching(*nodes: Told) -> tuple[Watcher, SecurityMonitor, Callable[[], bool]]:
    monitor = SecurityMonitor()
    made = Watcher(nodes, monitor, redact=Redactor(()))  # type: ignore[arg-type]  # it asks no more of a node than these have
    return made, monitor, lambda: asyncio.run(made.look())


def kinds(monitor: SecurityMonitor) -> list[str]:
    return [event.type for event in monitor.security_events]


def test_a_fault_of_ours_hides_no_other_node() -> None:
    """It is raised, after what the others had to say has been noted."""
    made, monitor, look = watching(Told("a:1", RuntimeError("ours")), Told("b:1", seen(unseen=7)))
    with pytest.raises(RuntimeError, match="ours"):
        look()
    assert 7 == monitor.get_failure_count()
    assert ["unknown", "up"] == [node["state"] for node in made.nodes()]


def test_a_login_without_a_name() -> None:
    """What the server counted and its log has lost is an event with the number, the node and the reason, and must be kept."""
    _, monitor, look = watching(Told("a:1", seen(unseen=35), seen()))
    assert [True, False] == [look(), look()]
    (event,) = [each for each in monitor.security_events if each.type == "auth_attempt"]
    assert (35, None, "a:1") == (event.count, event.username, event.details["node"])
    assert "lost from its log" in str(event.details["reason"])


def test_a_node_that_stays_away() -> None:
    """One event, each failure counted, the reason always the latest, and the time of the first; left alone, nothing changes."""
    node = Told("a:1", seen(), ServerUnavailableError("no connection"), None, ServerUnavailableError("no answer in time"), seen())
    made, monitor, look = watching(node)
    assert not look()
    assert look()
    since = made.nodes()[0]["since"]
    assert not look()
    assert "no connection" == made.nodes()[0]["reason"]
    assert look()
    assert ("down", since, "no answer in time") == tuple(made.nodes()[0][name] for name in ("state", "since", "reason"))
    assert 2 == monitor.count("node_down", hours=1)
    look()
    assert ["node_down", "node_up"] == kinds(monitor)
    assert ("up", "") == tuple(made.nodes()[0][name] for name in ("state", "reason"))


def test_a_client_is_new_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By user and address, whatever name it gives itself; between two lists of clients the last one stands. The list is bounded, but whoever is
    connected is known at the next look."""
    monkeypatch.setattr(watcher, "_KNOWN_CLIENTS", 3)
    app, other = ClientLine("app", "10.0.0.5", "one"), ClientLine("app", "10.0.0.6", "one")
    more = [ClientLine("x", f"10.0.1.{n}", "") for n in range(3)]
    renamed = seen(app, ClientLine("app", "10.0.0.5", "two"))
    made, monitor, look = watching(Told("a:1", seen(app, app), renamed, seen(), *[seen(other, *more)] * 2))
    assert [True, False, False, True, False] == [look() for _ in range(5)]
    assert ["client_seen"] * 5 == kinds(monitor)
    assert {"app": 1, "x": 3} == made.nodes()[0]["clients_by_user"]
    assert [["a:1", "app", "10.0.0.6"], *(["a:1", "x", f"10.0.1.{n}"] for n in range(3))] == made.snapshot()["clients"]


def test_the_client_that_was_seen_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a new one is an event still; who was seen lately stays known, over a restart too; who was forgotten is new again."""
    monkeypatch.setattr(watcher, "_KNOWN_CLIENTS", 2)
    one, two, three = (ClientLine("app", f"10.0.0.{n}", "") for n in range(3))
    made, monitor, look = watching(Told("a:1", seen(one), seen(two), seen(one), seen(three), seen(one), seen(two)))
    assert [True, True, False, True, False, True] == [look() for _ in range(6)]
    addresses = [event.details["address"] for event in monitor.security_events if event.type == "client_seen"]
    assert ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.1"] == addresses
    assert [["a:1", "app", "10.0.0.0"], ["a:1", "app", "10.0.0.1"]] == made.snapshot()["clients"]
    made.restore({**made.snapshot(), "clients": [["a:1", "app", f"10.0.0.{n}"] for n in range(5)]})
    assert [["a:1", "app", "10.0.0.3"], ["a:1", "app", "10.0.0.4"]] == made.snapshot()["clients"]


def test_probes_are_no_events() -> None:
    """Our own refusals are counted apart, and a restart must not count them again."""
    _, monitor, look = watching(Told("a:1", seen(probes=4)))
    assert look()
    assert ([], 4) == (monitor.security_events, monitor.tally("probe", success=True).total)


def test_a_snapshot() -> None:
    """Taken back for the nodes that are still there; something else is refused."""
    before, _, _ = watching(Told("a:1"), Told("gone:1"))
    new = Told("new:1")
    after, _, _ = watching(Told("a:1"), new)
    after.restore({**before.snapshot(), "clients": [["a:1", "app", "10.0.0.5"]]})
    assert ({"a:1": {"run": "a:1"}, "new:1": {"run": "new:1"}}, [["a:1", "app", "10.0.0.5"]]) == tuple(after.snapshot().values())
    for wrong in ({}, {"nodes": {}}, {"nodes": {}, "clients": [["a"]]}, {"nodes": {}, "clients": 3}, {"nodes": None, "clients": []}):
        with pytest.raises(ValueError):
            after.restore(wrong)
