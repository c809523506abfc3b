"""The posture: the one answer to "are we safe?". The CLI, the API, the dashboard and the end of a deploy show this one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from redkeep.monitoring.across_nodes import Row, place, probe_nodes, rows_of, targets, worst_of
from redkeep.monitoring.any_password import Tried
from redkeep.monitoring.control import STATES, Control, State
from redkeep.monitoring.host import probe_files, probe_host
from redkeep.monitoring.probes import probe_server
from redkeep.monitoring.reach import probe_reach
from redkeep.monitoring.rights import probe_users
from redkeep.target import Address, Target

_EXIT_CODES: Final[dict[State, int]] = {"ok": 0, "weak": 1, "unknown": 3, "not applicable": 0}


class Posture(NamedTuple):
    """What the probes found, in their order: each control in its worst state of all nodes, and as it is at each node."""

    controls: tuple[Control, ...]
    rows: tuple[Row, ...] = ()

    def count(self, state: State) -> int:
        """How many controls are in `state`."""
        return sum(control.state == state for control in self.controls)

    def places(self, state: State) -> dict[str, str]:
        """The controls in `state` with their remedies; of several nodes each is called `login on 10.0.0.1:6379`."""
        return {place(*row): row[1].remedy for row in self.rows if row[1].state == state}

    @property
    def state(self) -> State:
        """The worst: "weak" before "unknown" before "ok". Nothing probed is "unknown", never "ok"."""
        found = {control.state for control in self.controls}
        order: tuple[State, ...] = ("weak", "unknown", "ok")
        return next((state for state in order if state in found), "unknown")

    @property
    def exit_code(self) -> int:
        """0 all hold, 1 something is weak, 3 something cannot be told."""
        return exit_code_of(self.state)

    @property
    def summary(self) -> str:
        """One line: `redkeep: 18 controls hold, 2 not applicable`."""
        words = {"ok": "controls hold", "weak": "weak", "unknown": "unknown", "not applicable": "not applicable"}
        counts = [f"{self.count(state)} {words[state]}" for state in STATES if state == "ok" or self.count(state)]
        return f"redkeep: {', '.join(counts)}"


def exit_code_of(state: State) -> int:
    """What `redkeep status` returns for a posture in `state`."""
    return _EXIT_CODES[state]


def assess(
    target: Target,
    *,
    timeout: float = 3.0,
    users: Collection[str] = (),
    nodes: Iterable[Address] = (),
    tried: Tried | None = None,
) -> Posture:
    """Probe the live system behind `target` from this machine, with the target's own credentials; never raises.

    `timeout` bounds each network step, in seconds; `users` are expected on the server besides Redkeep's; `nodes` are probed
    besides the target's own, and the worst that is found counts. Whoever asks again and again gives `tried` each time.
    Blocking: 50-100 ms on a healthy system; from a coroutine, call it through `asyncio.to_thread`.
    """
    tried = tried or Tried()

    def server(each: Target) -> list[Control]:
        asked = probe_users(each, timeout=timeout, expected=users, tried=tried)
        return [*probe_server(each, timeout=timeout), *asked, *probe_reach(each)]

    there = targets(target, nodes)
    hosts = {name: list(probe_host(each)) for name, each in there.items()}
    files = [("", control) for control in probe_files(target)]
    rows = (*rows_of(probe_nodes(there, server)), *files, *rows_of(hosts))
    return Posture(tuple(map(_printable, worst_of(rows))), tuple((node, _printable(control)) for node, control in rows))


def _printable(control: Control) -> Control:
    """A server's words may end up in a terminal: no control characters, no lines without end."""
    evidence = "".join(c if c.isprintable() else "?" for c in control.evidence)
    return control._replace(evidence=evidence if len(evidence) <= 200 else f"{evidence[:199]}…")
