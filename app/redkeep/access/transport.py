"""The multiplexed transport: one TLS connection, at most two, carries all cache commands of a process and event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from redkeep.access.client import Argument, Command
from redkeep.access.commands import FORBIDDEN, RULES, admit, admit_batch, name_of, pack
from redkeep.access.dial import Credentials, Dialer
from redkeep.access.forks import cut_off, part_at_fork
from redkeep.access.lane import Lane
from redkeep.access.limits import Limits, limits_of
from redkeep.access.tls import SharedContext
from redkeep.access.tracking import ARM, Invalidate, Tracking
from redkeep.errors import ConfigurationError, ServerUnavailableError
from redkeep.target import Target

if TYPE_CHECKING:  # the transport needs neither pydantic nor redis-py
    from redkeep.settings import Settings


class Transport:
    """A `CacheClient` whose callers share one connection: their commands of one event-loop turn go out in one TLS record.

    It connects with the first command, and again by itself. It belongs to the event loop that it is first used in, and passes
    to another one only when that loop is closed; after a fork the child connects anew. It is not for several threads.
    """

    def __init__(
        self,
        settings: Settings | Target,
        *,
        limits: Limits | None = None,
        credentials: Credentials | None = None,
        contexts: SharedContext | None = None,
    ) -> None:
        """Connect to nothing yet. `credentials` is asked at each connect, instead of the settings; `contexts` may be shared.

        Raises ConfigurationError and CertificateError for settings and files that cannot be used.
        """
        target = settings if isinstance(settings, Target) else settings.target
        self._limits = limits or limits_of(target)
        self._dialer = Dialer(
            target,
            contexts=(contexts or SharedContext(target)) if target.tls else None,
            credentials=credentials,
            client_name=self._limits.client_name,
            timeout=self._limits.connect_seconds,
            max_reply_bytes=self._limits.reply_bytes,
            max_reply_elements=self._limits.reply_elements,
        )
        self._large_bytes = self._limits.large_bytes
        self._tracking = Tracking()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._lane: Lane | None = None
        self._second: Lane | None = None
        self._closed = False
        part_at_fork(self)

    async def execute(self, *command: Argument) -> Any:
        """One command, one reply. Raises the leaves of our error tree, as `CacheClient` says."""
        try:
            packed = pack(command)
            rule = RULES.get(command[0], FORBIDDEN)
        except (TypeError, ValueError, IndexError):
            raise _unpackable(command) from None
        if rule < 0:
            admit(command)
        lane = self._lane
        if lane is None or asyncio.get_running_loop() is not self._loop:
            lane = self._enter()
        if len(packed) > self._large_bytes:
            lane = self._second_lane()
        return await lane.submit(command, packed)

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip, replies in order; a command's own error stands in its place.

        MULTI and EXEC may be among them, as a pair. The whole batch takes the second connection when one command is large.
        """
        if not commands:
            return []
        packed: list[bytes] = []
        for command in commands:
            try:
                packed.append(pack(command))
                command[0]
            except (TypeError, ValueError, IndexError):
                raise _unpackable(command) from None
        admit_batch(commands)
        lane = self._lane
        if lane is None or asyncio.get_running_loop() is not self._loop:
            lane = self._enter()
        if max(map(len, packed)) > self._large_bytes:
            lane = self._second_lane()
        return await lane.submit_many(commands, packed)

    async def enable_tracking(self, on_invalidate: Invalidate) -> None:
        """Have the server tell `on_invalidate` which of the keys that were read here have changed; None means all of them.

        The callback runs on the event loop while replies are handed out: it must be short and must not await. It may come
        between the reply of a GET and the moment its caller goes on, so remember a value only if its key was not named since
        the GET was sent. While `tracking` is False, and after each None, nothing remembered may be used. A key that expires is
        named when Redis finds it, which can be seconds later: keep the expiry too.

        Raises PermissionDeniedError when the ACL does not grant `client|tracking`, and what `execute` raises.
        """
        self._tracking.want(on_invalidate)
        lane = self._enter()
        try:
            if lane.wire is None:
                await self.execute("PING")
            if not self._tracking.active and await lane.submit(ARM, pack(ARM)) == b"OK":
                self._tracking.begin()
        except BaseException:  # else each login would ask again, and fill ACL LOG with refusals
            self._tracking.wanted = False
            raise

    async def reauthenticate(self) -> None:
        """Log in again with the credentials of this moment, on each connection that is up; after a rotation.

        Raises AuthenticationError when they are refused; connections then stay logged in as they were.
        """
        lanes = [lane for lane in (self._lane, self._second) if lane is not None]
        for lane in lanes:
            lane.hurry()
        if not self._alive or self._loop is not asyncio.get_running_loop():
            return  # the next call connects anew, with what is then valid
        username, password = self._dialer.credentials()
        if not password:
            return
        command: Command = ("AUTH", username or "default", password)
        for lane in lanes:
            if lane.wire is not None:
                await lane.submit(command, pack(command))

    async def close(self) -> None:
        """End all connections; a second call is idle. What is in flight has a second to be answered."""
        self._closed = True
        lanes = [lane for lane in (self._lane, self._second) if lane is not None]
        self._lane = self._second = None
        for lane in lanes:
            ours = self._alive
            ending = lane.close(seconds=min(1.0, self._limits.seconds))
            if ours and self._loop is asyncio.get_running_loop():
                try:
                    await ending
                except asyncio.CancelledError:  # nobody has the lanes any more: they end without a word
                    for each in lanes:
                        each.abandon(loop_usable=True)
                    raise
            elif ours and self._loop is not None and self._loop.is_running():  # in another thread
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ending, self._loop))
            else:
                ending.close()
                lane.abandon(loop_usable=ours)

    def leave_to_parent(self) -> None:
        """In a forked child: leave its parent's connections alone, and connect anew with the next command."""
        for lane in (self._lane, self._second):
            if lane is not None and lane.wire is not None:
                cut_off(lane.wire.socket.fileno())
        self._lane = self._second = None
        self._tracking.end()

    @property
    def connected(self) -> bool:
        """Whether a connection is up and logged in at this moment."""
        return self._lane is not None and self._lane.wire is not None and self._alive

    @property
    def tracking(self) -> bool:
        """Whether the server tells us, at this moment, of changes to what was read. False in a forked child and when the event
        loop has been closed, until the next call has connected anew."""
        return self._tracking.active and self._alive

    @property
    def in_flight(self) -> tuple[int, int]:
        """Commands and their bytes that wait for the socket or for a reply, on both connections."""
        lanes = [lane for lane in (self._lane, self._second) if lane is not None]
        return sum(lane.in_flight for lane in lanes), sum(lane.bytes_in_flight for lane in lanes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _alive(self) -> bool:
        return self._loop is not None and not self._loop.is_closed() and os.getpid() == self._process

    def _enter(self) -> Lane:
        """The first lane, made for the running loop."""
        if self._closed:
            raise ServerUnavailableError(f"{self._dialer.peer}: this client is closed")
        loop, process = asyncio.get_running_loop(), os.getpid()
        if self._lane is not None and loop is self._loop and process == self._process:
            return self._lane
        if self._loop is not None and process == self._process and not self._loop.is_closed():
            raise ConfigurationError("this client belongs to another event loop that is still open; create one client per loop")
        for lane in (self._lane, self._second):
            if lane is not None:
                lane.abandon(loop_usable=False)
        self._loop, self._process, self._second = loop, process, None
        self._lane = Lane(loop, self._dialer, self._limits, tracking=self._tracking)
        return self._lane

    def _second_lane(self) -> Lane:
        if self._second is None:
            assert self._loop is not None  # `_enter` came before
            self._second = Lane(self._loop, self._dialer, self._limits, idle_seconds=self._limits.second_idle_seconds)
        return self._second


def _unpackable(command: Sequence[Argument]) -> ConfigurationError:
    return ConfigurationError(f"{name_of(command) or 'an empty command'}: arguments must be bytes, str, int or float")
