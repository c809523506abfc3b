"""A Redis Cluster as one `CacheClient`: a multiplexed transport to each primary, and every command to the one that has its key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Self

from redkeep.access.client import Argument, Command
from redkeep.access.commands import name_of
from redkeep.access.dial import Credentials
from redkeep.access.exclusive import ExclusiveConnection
from redkeep.access.failures import RedirectedError
from redkeep.access.failures import again as once_more
from redkeep.access.limits import Limits
from redkeep.access.loop_lock import LoopLock
from redkeep.access.slots import Node, SlotMap, keys_of, slot_of, split
from redkeep.access.tls import SharedContext
from redkeep.access.transport import Transport
from redkeep.errors import ConfigurationError, PermissionDeniedError, RedkeepError, ServerUnavailableError
from redkeep.target import Target

_HOPS: Final = 5
"""Redirections of one command; a slot that is on its way needs two."""

_REMOVALS: Final = frozenset({"DEL", "UNLINK"})
_BRACKETS: Final = frozenset({"MULTI", "EXEC"})


class ClusterClient:
    """For one event loop, as the transport is. `target` names any node; the others are learned from it.

    Keys of one call may lie on several servers, so nothing groups them: a batch is no transaction, its removals come last, and
    a value that moves from one key of an MGET to another meanwhile is found all the same, for what is absent is asked again.
    """

    def __init__(self, target: Target, *, limits: Limits | None = None, credentials: Credentials | None = None) -> None:
        """Connect to nothing yet. Raises ConfigurationError and CertificateError for settings and files that cannot be used."""
        if target.address.database:
            raise ConfigurationError("REDIS_URL names a database, but a Cluster has only database 0")
        self._target = target
        self._limits = limits
        self._credentials = credentials
        self._contexts = SharedContext(target) if target.tls else None
        self._transports: dict[Node, Transport] = {}
        self._map: SlotMap | None = None
        self._learning = LoopLock()
        self._failure: RedkeepError | None = None

    async def execute(self, *command: Argument) -> Any:
        """One command, one reply; its keys may lie on several servers. Raises as `CacheClient` says."""
        (reply,) = await self._all([command])
        if isinstance(reply, RedkeepError):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands, one round trip to each server, replies in order; a command's own error stands in its place."""
        names = [name_of(command) for command in commands]
        replies: list[Any] = [None] * len(commands)
        for removing in (False, True):
            places = [place for place, name in enumerate(names) if name not in _BRACKETS and (name in _REMOVALS) is removing]
            found = await self._all([commands[place] for place in places]) if places else []
            for place, reply in zip(places, found, strict=True):
                replies[place] = reply
        begun = 0
        for place, name in enumerate(names):
            if name == "MULTI":
                begun, replies[place] = place + 1, b"OK"
            elif name == "EXEC":
                replies[place] = replies[begun:place]
        return replies

    async def primaries(self, *, again: bool = False) -> SlotMap:
        """The servers, by slot; asked for once, and again when `again` is said or one of them has sent a command elsewhere."""
        known, failure = self._map, self._failure
        if known is not None and not again:
            return known
        async with self._learning.here():
            if self._map is None or self._map is known:  # else somebody was faster
                if self._failure is not None and self._failure is not failure:  # and got no answer: a queue of such would take for ever
                    raise once_more(self._failure)
                try:
                    self._map = await self._learn()
                except RedkeepError as error:
                    self._failure = once_more(error)
                    raise
            return self._map

    def target_of(self, node: Node) -> Target:
        """The target of one server."""
        return self._target._replace(address=self._target.address._replace(host=node.host, port=node.port))

    async def reauthenticate(self) -> None:
        """As the transport does, on each server. Raises AuthenticationError when one refuses."""
        found = await asyncio.gather(*(each.reauthenticate() for each in self._transports.values()), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, ServerUnavailableError):
                raise error

    async def close(self) -> None:
        """End all connections; a second call is idle."""
        transports, self._transports, self._map = list(self._transports.values()), {}, None
        await asyncio.gather(*(each.close() for each in transports))

    @property
    def connected(self) -> bool:
        """Whether the map is known and no server that was asked is lost."""
        return self._map is not None and all(each.connected for each in self._transports.values())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        parts = [split(command) for command in commands]
        replies = iter(await self._each([part for of_one in parts for _, part in of_one]))
        return [
            await self._whole(command, [(places, next(replies)) for places, _ in of_one])
            for command, of_one in zip(commands, parts, strict=True)
        ]

    async def _whole(self, command: Command, found: list[tuple[list[int], Any]]) -> Any:
        """One reply of those of a command's parts."""
        if len(found) == 1:
            return found[0][1]
        failed = next((reply for _, reply in found if isinstance(reply, RedkeepError)), None)
        if failed is not None:
            return failed
        if name_of(command) != "MGET":
            return sum(reply for _, reply in found)
        values: list[Any] = [None] * (len(command) - 1)
        for places, reply in found:
            for place, value in zip(places, reply, strict=True):
                values[place] = value
        absent = [place for place, value in enumerate(values) if value is None]
        again = await self._each([("GET", command[1 + place]) for place in absent]) if absent else []
        for place, value in zip(absent, again, strict=True):
            if isinstance(value, RedkeepError):
                return value
            values[place] = value
        return values

    async def _each(self, commands: list[Command]) -> list[Any]:
        """Each of the commands at the server that has its keys, which are of one slot; errors stand in their places."""
        replies: list[Any] = [None] * len(commands)
        places = list(range(len(commands)))
        for hop in range(_HOPS):
            known = await self.primaries(again=hop > 0)
            by_node: dict[Node, list[int]] = {}
            for place in places:
                by_node.setdefault(self._node(known, commands[place]), []).append(place)
            parts = await asyncio.gather(
                *(self._at(node, [commands[place] for place in mine]) for node, mine in by_node.items()), return_exceptions=True
            )
            for mine, part in zip(by_node.values(), parts, strict=True):
                if isinstance(part, BaseException) and not isinstance(part, RedkeepError):
                    raise part
                for number, place in enumerate(mine):
                    replies[place] = part if isinstance(part, RedkeepError) else part[number]
            for place in places:
                if isinstance(error := replies[place], RedirectedError) and error.once:
                    replies[place] = await self._at_once(Node(error.host, error.port), commands[place])
            places = [place for place in places if isinstance(replies[place], RedirectedError)]
            if not places:
                break
        if any(isinstance(reply, ServerUnavailableError) for reply in replies):
            self._map = None  # a server may have been replaced: ask again before the next command
        return replies

    async def _at(self, node: Node, commands: list[Command]) -> list[Any]:
        transport = self._transports.get(node)
        if transport is None:
            transport = self._transports[node] = Transport(
                self.target_of(node), limits=self._limits, credentials=self._credentials, contexts=self._contexts
            )
        if len(commands) == 1:
            return [await transport.execute(*commands[0])]
        return await transport.execute_many(commands)

    async def _at_once(self, node: Node, command: Command) -> Any:
        """At the server that the slot is on its way to."""
        try:
            return (await self._at(node, [("ASKING",), command]))[1]
        except RedkeepError as error:
            return error

    def _node(self, known: SlotMap, command: Command) -> Node:
        keys = keys_of(command)
        if not keys:
            return known.primaries[0]
        slot = slot_of(keys[0])
        node = known.owners.get(slot)
        if node is None:
            raise ServerUnavailableError(f"no server of the Cluster has slot {slot}; check it with CLUSTER INFO")
        return node

    async def _learn(self) -> SlotMap:
        """The map, by the first server that gives it. Raises the leaves of our error tree."""
        first = Node(self._target.host, self._target.port)
        last: RedkeepError | None = None
        for node in dict.fromkeys((*self._transports, first)):
            try:
                found = await self._ask_for_map(node)
            except ServerUnavailableError as error:
                last = error
                continue
            for gone in set(self._transports) - set(found.primaries):
                await self._transports.pop(gone).close()
            return found
        raise last or ServerUnavailableError(f"{first}: no server of the Cluster answers")

    async def _ask_for_map(self, node: Node) -> SlotMap:
        target = self.target_of(node)
        if self._credentials is not None:
            username, password = self._credentials()
            target = target._replace(username=username, password=password)
        connection = await ExclusiveConnection.open(target, limits=self._limits, contexts=self._contexts)
        try:
            found = SlotMap.parse(await connection.execute("CLUSTER", "SLOTS"), asked=node.host)
        except PermissionDeniedError:
            raise PermissionDeniedError(
                f"{node}: user {target.username} may not list the Cluster's servers; grant it +cluster|slots +asking on each"
            ) from None
        except ConfigurationError:
            raise ConfigurationError(f"{node}: this server is not part of a Cluster; remove REDIS_CLIENT=cluster from the settings") from None
        finally:
            await connection.close()
        if not found.owners:
            raise ServerUnavailableError(f"{node}: no server of its Cluster has slots yet; check it with CLUSTER INFO")
        return found
