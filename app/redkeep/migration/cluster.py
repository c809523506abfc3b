"""The entries of a Redis Cluster: each server's by a run of its own, all at the same time.

Old and new name lie on different servers, mostly, and no transaction holds both. So an entry is written at its new place first and
removed at the old one in a transaction that fails when an application has written there since; then what was written is taken back.
Whoever reads in between finds it at one of the two (`ClusterClient`); what nobody else wrote is never lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar

from redkeep.access.client import Command
from redkeep.access.cluster import ClusterClient
from redkeep.access.exclusive import ExclusiveConnection
from redkeep.access.slots import SLOTS, Node, SlotMap, slot_of
from redkeep.cache.epochs import Ask
from redkeep.crypto.keyring import KeyRing
from redkeep.errors import ConfigurationError, RedkeepError
from redkeep.migration.census import LOOK_SECONDS, Census, take_census
from redkeep.migration.census import RATE as CENSUS_RATE
from redkeep.migration.counts import Counts, Progress, sum_of
from redkeep.migration.lease import Lease
from redkeep.migration.reencrypt import DataMigration
from redkeep.migration.resealing import Move
from redkeep.migration.sweep import Sweep
from redkeep.target import Target

Result = TypeVar("Result")

ROUNDS: Final = 3
"""How often all is begun again because slots have changed hands meanwhile."""


class NodeMigration(DataMigration):
    """The entries that lie on one server of a Cluster."""

    _watches = False

    def __init__(
        self, target: Target, cluster: ClusterClient, marking: asyncio.Lock, *, lease: Lease | None = None, **options: Any
    ) -> None:
        """As DataMigration; `marking` is shared by all runs of a Cluster: what one has told the clients, all have. So is the
        `lease`, by which no other process is at work there."""
        self._cluster = cluster
        self._lease = lease
        self._marking = marking
        super().__init__(target, **options)

    def _new_sweep(self) -> Sweep:
        return Sweep(self._target, pace=self._pace, in_a_cluster=True)

    def _asker(self) -> Ask:
        return self._cluster.execute

    async def _all_returned(self) -> None:
        """Not yet: other servers may have sealed entries still."""

    async def begin_anew(self) -> None:
        """Once no server has a sealed entry: as DataMigration does after the way back."""
        async with self._sweep:
            await self._begin_anew()

    async def _mark(self, moves: Any) -> None:
        async with self._marking:
            await super()._mark(moves)

    async def _commit(self, names: list[bytes], moves: dict[bytes, Move], dead: list[bytes]) -> list[bytes]:
        await self._alone()
        await self._mark(moves.values())
        elsewhere = {name: move for name, move in moves.items() if _target(move) != name}
        written = await self._write(elsewhere)
        done: dict[bytes, Move] = {}
        again: list[bytes] = []
        superseded = 0
        actions: list[tuple[bytes, Command]] = []
        for name in names:
            move = moves.get(name)
            if name in dead or (name in elsewhere and (name in written or self._last)):
                actions.append((name, ("UNLINK", name)))
            elif move is not None and name not in elsewhere:
                actions.append((name, ("SET", name, move.stored, *(("PX", move.milliseconds) if move.milliseconds else ()))))
            elif move is not None:
                self.counts.left += 1
        for name, settled in await self._settle(actions):
            move = moves.get(name)
            if not settled:
                again.append(name)
                if name in written:
                    await self._take_back(moves[name])
            elif move is None:
                self.counts.invalidated += 1
            elif name in elsewhere and name not in written:
                superseded += 1
            else:
                done[name] = move
                self._count(move)
        self.counts.superseded += superseded
        await self._compare(done)
        return again

    async def _write(self, moves: dict[bytes, Move]) -> set[bytes]:
        """Write entries at their new places, where these are free or count less; returns the names whose was."""
        commands: list[Command] = []
        for move in moves.values():
            life = ("PX", move.milliseconds) if move.milliseconds else ()
            commands.append(("SET", _target(move), move.stored, *life, *(() if move.overwrites else ("NX",))))
        replies = await self._cluster.execute_many(commands) if commands else []
        for reply in replies:
            if isinstance(reply, RedkeepError):  # the others lie at both places: the next sweep removes them at the old
                raise reply
        return {name for name, reply in zip(moves, replies, strict=True) if reply is not None}

    async def _settle(self, actions: list[tuple[bytes, Command]]) -> list[tuple[bytes, bool]]:
        """Carry out each action at its name unless what lies there has changed since it was read; says which were.

        The transaction of one goes in the same round trip as the watch of the next.
        """
        settled: list[tuple[bytes, bool]] = []
        before: tuple[bytes, Command | None] | None = None
        for name, action in [*actions, (b"", None)]:
            commands: list[Command] = [("MULTI",), before[1], ("EXEC",)] if before and before[1] else []
            if action is not None:
                commands += [("WATCH", name), ("GET", name)]
            replies = await self._sweep.ask_many(commands)
            for reply in replies:
                if isinstance(reply, RedkeepError):
                    raise reply
            if before is not None:
                settled.append((before[0], before[1] is not None and replies[2] is not None))
            unchanged = action is not None and replies[-1] == self._lay.get(name)
            before = (name, action if unchanged else None)
        return settled

    async def _alone(self) -> None:
        if self._lease is not None:
            await self._lease.check()

    async def _take_back(self, move: Move) -> None:
        """Remove what was written at a new place, unless somebody has written there since."""
        await self._alone()  # else it may be another run that has moved the entry
        name = _target(move)
        known = await self._cluster.primaries()
        target = self._cluster.target_of(known.owners[slot_of(name)])
        connection = await ExclusiveConnection.open(target)
        try:
            _, found = await connection.execute_many([("WATCH", name), ("GET", name)])
            if found == move.stored:
                await connection.execute_many([("MULTI",), ("UNLINK", name), ("EXEC",)])
        finally:
            await connection.close()


class ClusterMigration:
    """One run over the keys of all servers of a Cluster and one namespace."""

    def __init__(
        self,
        target: Target,
        *,
        state_file: Path | None = None,
        show: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> None:
        """`target` names any of the servers; the rest as for DataMigration, `rate` for each server."""
        self._target = target
        self._state_file = state_file
        self._options = options
        self._show = show
        self._progress: dict[Node, Progress] = {}
        DataMigration(target, **options)  # what is wrong with the settings is said before anything connects

    async def run(self) -> Counts:
        """Sweep every server until nothing is left to do. Raises the leaves of our error tree, naming the server; what was done
        there and on the others stays done, and the next run goes on. ConfigurationError when another run is at work there."""
        async with ClusterClient(self._target) as cluster:
            known = await whole_map(cluster)
            for node in known.primaries:  # one that is down is named before anything moves
                await (await ExclusiveConnection.open(cluster.target_of(node))).close()
            lease = Lease(cluster.execute, self._target.namespace)
            async with nullcontext() if self._options.get("dry_run") else lease.held():
                return await self._sweep_all(cluster, known, lease)

    async def _sweep_all(self, cluster: ClusterClient, before: SlotMap, lease: Lease) -> Counts:
        total = Counts()
        for _ in range(ROUNDS):
            runs = self._runs(cluster, before, lease)
            found = await _all([run.run() for run in runs])
            total = sum_of(found).plus(total.what_was_done())
            after = await whole_map(cluster, again=True)
            if after == before:
                break
            before = after  # what has changed servers meanwhile may have been seen on neither
        else:
            raise ConfigurationError(
                f"slots of the Cluster moved between servers during each of {ROUNDS} sweeps, so entries may have been missed; "
                "run again when the slots have stopped moving"
            )
        if self._options.get("reverse") and not (self._options.get("dry_run") or total.left or total.without_old_name):
            await _all([run.begin_anew() for run in runs])
        return total

    def _runs(self, cluster: ClusterClient, known: SlotMap, lease: Lease) -> list[NodeMigration]:
        marking, of = asyncio.Lock(), len(known.primaries)
        self._progress = {}
        return [
            NodeMigration(
                cluster.target_of(node),
                cluster,
                marking,
                lease=lease,
                state_file=self._state_of(node),
                show=lambda progress, node=node: self._shown(node, progress, of),
                **self._options,
            )
            for node in known.primaries
        ]

    def _state_of(self, node: Node) -> Path | None:
        file = self._state_file
        return file and file.with_name(f"{file.stem}-{node.host.replace(':', '.')}-{node.port}{file.suffix}")

    def _shown(self, node: Node, progress: Progress, of: int) -> None:
        self._progress[node] = progress
        if self._show is not None:
            all_of_them = self._progress.values()
            self._show(
                Progress(
                    min(each.number for each in all_of_them),
                    sum(1.0 if each.number > 1 else each.fraction for each in all_of_them) / of,
                    max(each.seconds for each in all_of_them),
                    sum_of(each.counts for each in all_of_them),
                )
            )


async def take_census_by_settings(
    target: Target, *, client: str, rate: float = CENSUS_RATE, seconds: float = math.inf
) -> Census:
    """The census of the server, or with the client `cluster` of every server of its Cluster, together; a sample of it when it
    takes longer than `seconds`. Raises as `take_census` does."""
    if client != "cluster":
        return await take_census(target, rate=rate, seconds=seconds)
    async with ClusterClient(target) as cluster:
        known = await whole_map(cluster)
        parts = [take_census(cluster.target_of(node), rate=rate, seconds=seconds, in_a_cluster=True) for node in known.primaries]
        found = await _all(parts)
        if seconds == math.inf and await whole_map(cluster, again=True) != known:
            raise ConfigurationError("slots of the Cluster moved between servers during the count; count again")
    total = Census()
    for each in found:
        total = total.plus(each)
    return total


async def refuse_unknown_keys(target: Target, *, client: str, rate: float = CENSUS_RATE) -> None:
    """Look at what lies there, for ten seconds at most. Raises ConfigurationError when entries are sealed with keys that the target
    does not hold, and what `take_census` raises."""
    census = await take_census_by_settings(target, client=client, rate=rate, seconds=LOOK_SECONDS)
    if found := census.unknown([key.key_id.hex() for key in KeyRing.from_strings(target.keys).keys]):
        raise ConfigurationError(
            f"{found}; nothing was changed. Add that key at the end of REDIS_ENCRYPTION_KEYS; or, when these entries may "
            "stay misses until they expire, continue with --leave-unknown (in Python: leave_unknown=True)"
        )


async def whole_map(cluster: ClusterClient, *, again: bool = False) -> SlotMap:
    """The servers of a Cluster that has a server for each slot. Raises ConfigurationError when it has not."""
    known = await cluster.primaries(again=again)
    if known.missing:
        raise ConfigurationError(f"{known.missing} of {SLOTS} slots of the Cluster have no server; check CLUSTER INFO and fix that first")
    return known


async def _all(works: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of all, or the first failure once the others have ended: what one server is in the midst of is not cut off."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]


def _target(move: Move) -> bytes:
    return move.target.encode("utf-8", "surrogatepass")
