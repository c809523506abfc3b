"""The small interface through which the cache speaks to Redis, whatever carries it.

Three things carry it: the multiplexed transport (one TLS connection for all commands of an event loop), one such transport to each
server of a Redis Cluster, and by choice redis-py's connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Argument = bytes | str | int | float
Command = tuple[Argument, ...]


class CacheClient(Protocol):
    """Commands in, replies out. Bulk replies are bytes, never decoded; nil is None, integers are int.

    Every method raises the leaves of ``redkeep.errors`` and nothing of a library: AuthenticationError,
    PermissionDeniedError (NOPERM), TLSError, ServerUnavailableError (refused, lost, deadline passed, LOADING, too much in
    flight), and ConfigurationError for a command that the server calls wrong.
    """

    async def execute(self, *command: Argument) -> Any:
        """One command, one reply. Raises as described above."""
        ...

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip, replies in order; a command's own error stands in its place as an
        exception value. Raises only when the connection as a whole fails."""
        ...

    async def reauthenticate(self) -> None:
        """Have the connections that are up log in with the credentials of this moment, or others in their place; no command
        fails for it. Raises AuthenticationError when they are refused: connections then stay logged in as they were."""
        ...

    async def close(self) -> None:
        """End all connections; a second call is idle."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a connection is up and logged in at this moment."""
        ...
