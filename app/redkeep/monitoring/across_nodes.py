"""One posture from several nodes: each control in its worst state of all, with the nodes that are in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from redkeep.monitoring.control import Control, State
from redkeep.monitoring.round_trip import NAME as ROUND_TRIP
from redkeep.monitoring.round_trip import REPLICA
from redkeep.monitoring.words import listed
from redkeep.target import Address, Target

_WORST_FIRST: Final[tuple[State, ...]] = ("weak", "unknown", "ok", "not applicable")
_AT_ONCE: Final = 8
_SHOWN: Final = 3

Probed = TypeVar("Probed")
Row = tuple[str, Control]
"""A control at a node, by `host:port`; "" where a deployment has one node, or where the control is of none."""


def targets(target: Target, nodes: Iterable[Address]) -> dict[str, Target]:
    """The node of `target`, and the other ones of `nodes`, with the same credentials; by `host:port`."""
    found = {node_name(target): target}
    for address in nodes:
        other = target._replace(address=address)
        found.setdefault(node_name(other), other)
    return found


def node_name(target: Target) -> str:
    """host:port, an IPv6 address in brackets."""
    return f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"


def probe_nodes(nodes: Mapping[str, Target], probe: Callable[[Target], Probed]) -> dict[str, Probed]:
    """What `probe` finds at each node; several at a time, so that one that hangs does not hold up the others."""
    if len(nodes) == 1:
        return {name: probe(target) for name, target in nodes.items()}
    from concurrent.futures import ThreadPoolExecutor  # here: most deployments have one node, and a start of it costs

    with ThreadPoolExecutor(min(_AT_ONCE, len(nodes))) as pool:
        return dict(zip(nodes, pool.map(probe, nodes.values()), strict=True))


def rows_of(found: Mapping[str, Sequence[Control]]) -> list[Row]:
    """What was found, control by control, each with its node.

    A replica cannot be written to: that proves nothing as long as another node was.
    """
    rows: dict[str, list[Row]] = {}
    for node, controls in found.items():
        for control in controls:
            rows.setdefault(control.name, []).append((node if len(found) > 1 else "", control))
    primaries = [row for row in rows.get(ROUND_TRIP, ()) if row[1].evidence != REPLICA]
    if primaries:
        rows[ROUND_TRIP] = primaries
    return [row for each in rows.values() for row in each]


def worst_of(rows: Iterable[Row]) -> list[Control]:
    """Each control once. One node's are as they are; of several, the evidence says which node it is about."""
    by_name: dict[str, list[Row]] = {}
    for node, control in rows:
        by_name.setdefault(control.name, []).append((node, control))
    return [_worst(each) if each[0][0] else each[0][1] for each in by_name.values()]


def place(node: str, control: Control) -> str:
    """What a control is called among those of all nodes."""
    return f"{control.name} on {node}" if node else control.name


def _worst(rows: Sequence[Row]) -> Control:
    state = min((control.state for _, control in rows), key=_WORST_FIRST.index)
    those = [(node, control) for node, control in rows if control.state == state]
    by_evidence: dict[str, list[str]] = {}
    for node, control in those:
        by_evidence.setdefault(control.evidence, []).append(node)
    if len(by_evidence) == 1 and len(those) == len(rows) > 1:
        evidence = f"{those[0][1].evidence} (all {len(rows)} nodes)"
    else:
        evidence = "; ".join(f"{listed(nodes, most=_SHOWN)}: {what}" for what, nodes in by_evidence.items())
    return Control(those[0][1].name, state, evidence, next((control.remedy for _, control in those if control.remedy), ""))
