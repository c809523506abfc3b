"""A connection for one caller alone, for what must not share one: WATCH, and the transaction that depends on it.

Nothing is ever sent twice, and it never reconnects: a transaction whose WATCH was on another connection would overwrite what it
meant to compare. Whoever uses it opens the next one and begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

from redkeep.access.calls import Batch
from redkeep.access.client import Argument, Command
from redkeep.access.commands import name_of, pack
from redkeep.access.dial import Dialer
from redkeep.access.failures import network_error
from redkeep.access.limits import Limits, limits_of
from redkeep.access.tls import SharedContext
from redkeep.access.wire_protocol import WireProtocol
from redkeep.errors import ConfigurationError, RedkeepError, ServerUnavailableError
from redkeep.target import Target


class ExclusiveConnection:
    """One connection that is logged in; `open` makes it. Calls of several tasks would mix: it is for one."""

    def __init__(self, dialer: Dialer, limits: Limits) -> None:
        self.peer = dialer.peer
        self.bytes_in_flight = 0
        self._limits = limits
        self._wire: WireProtocol | None = None

    @classmethod
    async def open(cls, target: Target, *, limits: Limits | None = None, contexts: SharedContext | None = None) -> Self:
        """Connect and log in. Raises the leaves of our error tree, as `CacheClient` says."""
        chosen = limits or limits_of(target)
        dialer = Dialer(
            target,
            contexts=(contexts or SharedContext(target)) if target.tls else None,
            credentials=None,
            client_name=chosen.client_name,
            timeout=chosen.connect_seconds,
            max_reply_bytes=chosen.reply_bytes,
            max_reply_elements=chosen.reply_elements,
        )
        made = cls(dialer, chosen)
        made._wire, _ = await dialer.dial(made, tracking=False)
        return made

    async def execute(self, *command: Argument) -> Any:
        """One command, one reply; an error reply is raised."""
        (reply,) = await self.execute_many([command])
        if isinstance(reply, RedkeepError):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip, replies in order; a command's own error stands in its place.

        Raises ServerUnavailableError when the connection is lost or silent for too long: it is over then, and what was sent may
        have been done.
        """
        wire = self._wire
        if wire is None or wire.over:
            raise ServerUnavailableError(f"{self.peer}: the connection is closed")
        if not commands:
            return []
        try:
            packed = b"".join(map(pack, commands))
        except (TypeError, ValueError):
            raise ConfigurationError(f"{name_of(commands[0])}: arguments must be bytes, str, int or float") from None
        answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        batch = Batch(answered, len(commands))
        wire.sent.extend((batch, 0.0, 0, command, 0) for command in commands)
        wire.write(packed)
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await answered
        except BaseException as error:
            wire.kill()
            if not isinstance(error, OSError | RedkeepError):
                raise
            raise network_error(error, self.peer) from None

    async def close(self) -> None:
        """End the connection; a second call is idle."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    # What the connection reports. It is never adopted, so its end reaches the calls that wait, by itself.

    def lost(self, wire: WireProtocol, error: BaseException | None) -> None:
        """Not called: see above."""

    def writable(self, wire: WireProtocol) -> None:
        """What was written before is on its way; there is nothing more."""

    def pushed(self, message: list[Any]) -> None:
        """A push message that nobody asked for changes nothing."""

    def refused(self, wire: WireProtocol, code: str) -> None:
        """The caller has the error."""
