"""The watcher: what the servers themselves have seen, of any client, turned into events."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from redkeep.errors import AuthenticationError, RedkeepError
from redkeep.monitoring.acl_log import Denial
from redkeep.monitoring.events import SecurityMonitor
from redkeep.monitoring.node import Look, Node
from redkeep.monitoring.words import Redactor

_LATENCIES: Final = 360
"""Points kept a node: an hour of one every ten seconds."""

_LATENCY_SECONDS: Final = 10.0
_KNOWN_CLIENTS: Final = 10_000
"""Remembered; beyond it the one that was seen longest ago is forgotten, and is new when it comes again."""


class Watcher:
    """All nodes of a deployment. `look` from one task at a time."""

    def __init__(self, nodes: Sequence[Node], monitor: SecurityMonitor, *, redact: Redactor) -> None:
        """`redact` takes our own secrets out of the names that strangers typed."""
        self._nodes = tuple(nodes)
        self._monitor = monitor
        self._redact = redact
        self._seen: dict[str, dict[str, Any]] = {}
        self._latencies: dict[str, deque[tuple[float, float]]] = {node.name: deque(maxlen=_LATENCIES) for node in nodes}
        self._clients: dict[tuple[str, str, str], None] = {}

    async def look(self) -> bool:
        """Ask every node once, all at a time; whether anything is new that a restart must not count again."""
        found = await asyncio.gather(*(asyncio.to_thread(node.look) for node in self._nodes), return_exceptions=True)
        changed = False
        for node, result in zip(self._nodes, found, strict=True):
            if isinstance(result, RedkeepError):
                self._failed(node, result)
                changed = True
            elif isinstance(result, Look):
                changed |= self._answered(node, result)
        for result in found:
            if isinstance(result, BaseException) and not isinstance(result, RedkeepError):
                raise result  # a fault of ours; what the other nodes had to say has been heard
        return changed

    def close(self) -> None:
        """End the connections."""
        for node in self._nodes:
            node.close()

    def nodes(self) -> list[dict[str, Any]]:
        """Each node: name, state ("up", "down", "unknown" before the first look), since, reason, latency, its figures."""
        empty = {"state": "unknown", "since": None, "reason": "not asked yet", "latency_ms": None}
        return [{"node": node.name, **(self._seen.get(node.name) or empty)} for node in self._nodes]

    def latencies(self) -> list[dict[str, Any]]:
        """How long INFO took, a point every ten seconds: node, time, milliseconds."""
        return [
            {"node": name, "time": _iso(moment), "milliseconds": round(taken, 3)}
            for name, points in self._latencies.items()
            for moment, taken in points
        ]

    def snapshot(self) -> dict[str, Any]:
        """What has been counted of each node, as plain data."""
        return {"nodes": {node.name: node.snapshot() for node in self._nodes}, "clients": [list(key) for key in self._clients]}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back a snapshot, for the nodes that are still there. Raises ValueError when it is something else."""
        try:
            for node in self._nodes:
                if node.name in saved["nodes"]:
                    node.restore(saved["nodes"][node.name])
            clients = [(str(a), str(b), str(c)) for a, b, c in saved["clients"]]
            self._clients = dict.fromkeys(clients[-_KNOWN_CLIENTS:])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no snapshot of nodes: {type(error).__name__}") from None

    def _failed(self, node: Node, error: RedkeepError) -> None:
        before = self._seen.get(node.name, {})
        if before.get("state") == "down":
            self._monitor.tally("node_down").add(time.time())
            self._seen[node.name] = {**before, "reason": str(error)}
            return
        self._monitor.record("node_down", severity="error", node=node.name, reason=str(error))
        refused = isinstance(error, AuthenticationError)
        self._seen[node.name] = {
            **before, "state": "down", "since": _iso(time.time()), "latency_ms": None,
            "reason": f"{error}; is the password of monitor that of the last deploy?" if refused else str(error),
        }  # fmt: skip

    def _answered(self, node: Node, look: Look) -> bool:
        before = self._seen.get(node.name, {})
        now = time.time()
        up = before.get("state") == "up"
        if before.get("state") == "down":
            self._monitor.record("node_up", success=True, node=node.name)
        clients = before.get("clients_by_user", {})
        new = False
        if look.clients is not None:
            clients = {}
            for (user, address, _), count in sorted(look.clients.items()):
                clients[user] = clients.get(user, 0) + count
                new |= self._client(node.name, user, address)
            # Never one that is connected: a server with more clients than that would report them anew at each look.
            for key in list(self._clients)[: max(0, len(self._clients) - max(_KNOWN_CLIENTS, len(look.clients)))]:
                del self._clients[key]
        self._seen[node.name] = {
            "state": "up", "since": before["since"] if up else _iso(now), "reason": "", "latency_ms": round(look.milliseconds, 3),
            **look.figures, "clients_by_user": clients,
        }  # fmt: skip
        points = self._latencies[node.name]
        if not points or now - points[-1][0] >= _LATENCY_SECONDS:
            points.append((now, look.milliseconds))
        for denial, growth in look.denials:
            self._denied(node.name, denial, growth, now)
        if look.unseen_logins:
            self._monitor.record("auth_attempt", count=look.unseen_logins, node=node.name, reason="counted by the server, lost from its log")
        if look.probes:
            self._monitor.tally("probe", success=True).add(now, look.probes)
        return bool(look.denials or look.unseen_logins or look.probes or new)

    def _client(self, node: str, user: str, address: str) -> bool:
        key = (node, user, address)
        known = key in self._clients
        self._clients.pop(key, None)
        self._clients[key] = None  # the last one is the one that was seen last
        if known:
            return False
        self._monitor.record("client_seen", success=True, username=user, address=address, node=node)
        return True

    def _denied(self, node: str, denial: Denial, growth: int, now: float) -> None:
        details: dict[str, Any] = {"address": denial.address, "node": node, "client": self._redact(denial.client_name)}
        when = now - denial.age
        if denial.reason == "auth":
            self._monitor.record("auth_attempt", username=self._redact(denial.user), count=growth, when=when, **details)
            return
        what = self._redact(denial.object)
        self._monitor.record(
            "permission_denied", username=self._redact(denial.user), count=growth, when=when, what=f"{denial.reason} {what}", **details
        )


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
