"""A sweep: every key of the cache once, by the janitor's SCAN, with what is needed of its value by the cache's own user."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

from redkeep.access.client import Argument, Command
from redkeep.access.exclusive import ExclusiveConnection
from redkeep.cache.access_points import JANITOR
from redkeep.cache.epochs import NOT_ENTRIES
from redkeep.cache.keys import PREFIX
from redkeep.crypto.envelope import HEADER_BYTES
from redkeep.environment import read_secret_file
from redkeep.errors import ConfigurationError, RedkeepError, ServerUnavailableError
from redkeep.migration.progress import Pace
from redkeep.target import DEFAULT_USERNAME, Target

SCAN_COUNT: Final = 500
"""Slots a step: some 0.15 ms of the server's time, during which it serves nobody else."""

HEADERS: Final = 100
"""Headers asked for in one round trip, for the same reason."""

HEADER_WEIGHT: Final = 0.1
"""What reading 31 bytes counts for in the rate, beside moving a value."""

PATIENCE_SECONDS: Final = 60.0
"""How long a server that does not answer is asked again: a restart, a failover."""


class Sweep:
    """Two connections of their own, one as the janitor, one as the cache user, made anew when they are lost."""

    def __init__(self, target: Target, *, pace: Pace, in_a_cluster: bool = False) -> None:
        """`in_a_cluster` says that the server is one of several, each with a sweep of its own.

        Raises ConfigurationError when nobody here may SCAN.
        """
        self._target = target
        self._janitor = janitor_of(target)
        self._pace = pace
        self._in_a_cluster = in_a_cluster
        self._scanner: ExclusiveConnection | None = None
        self._data: ExclusiveConnection | None = None

    async def __aenter__(self) -> Self:
        await self.reopen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def reopen(self) -> None:
        """Both connections anew. Raises the leaves of our error tree."""
        await self._close()
        self._data = await ExclusiveConnection.open(self._target)
        server = await self._data.execute("HELLO")
        if not self._in_a_cluster and isinstance(server, dict) and server.get(b"mode") == b"cluster":
            raise ConfigurationError(
                f"{self._target.host}:{self._target.port}: this is one server of a Cluster, and the others have entries too; set "
                "REDIS_CLIENT=cluster here and for the applications"
            )
        self._scanner = await ExclusiveConnection.open(self._janitor)

    async def reopen_or_wait(self, patience: Patience) -> None:
        """Both connections anew, or, when the server does not answer yet, a wait: the next use fails, and comes back here."""
        try:
            await self.reopen()
        except ServerUnavailableError as error:
            await patience.failed(error)

    async def steps(self, cursor: int = 0) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Names of entries, with the cursor that comes after them, 0 with the last ones. Raises the leaves of our error tree."""
        async for after, names in self._scan(f"{PREFIX}*", cursor):
            yield after, [name for name in names if not name.startswith(NOT_ENTRIES)]

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """Every name that matches a pattern of Redis."""
        async for _, names in self._scan(pattern, 0):
            for name in names:
                yield name

    async def _scan(self, pattern: str, cursor: int) -> AsyncIterator[tuple[int, list[bytes]]]:
        while True:
            if self._scanner is None:
                raise ServerUnavailableError("the connection is closed")
            after, names = await self._scanner.execute("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
            cursor = int(after)
            yield cursor, names
            if not cursor:
                return

    async def headers(self, names: list[bytes]) -> list[bytes]:
        """The first bytes of each value; b"" where there is none, or no plain value."""
        found: list[bytes] = []
        for first in range(0, len(names), HEADERS):
            part = names[first : first + HEADERS]
            await self._pace.take(len(part) * HEADER_WEIGHT)
            replies = await self.ask_many([("GETRANGE", name, 0, HEADER_BYTES - 1) for name in part])
            found += [reply if isinstance(reply, bytes) else b"" for reply in replies]
            for reply in replies:
                if isinstance(reply, RedkeepError) and not isinstance(reply, ConfigurationError):
                    raise reply
        return found

    async def ask(self, *command: Argument) -> Any:
        """One command of the cache user."""
        if self._data is None:
            raise ServerUnavailableError("the connection is closed")
        return await self._data.execute(*command)

    async def ask_many(self, commands: list[Command]) -> list[Any]:
        """Several commands of the cache user in one round trip; errors stand in their places."""
        if self._data is None:
            raise ServerUnavailableError("the connection is closed")
        return await self._data.execute_many(commands)

    async def _close(self) -> None:
        for each in (self._scanner, self._data):
            if each is not None:
                await each.close()
        self._scanner = self._data = None


class Patience:
    """Waits longer after each failure, and gives up after a minute without a success."""

    def __init__(self) -> None:
        self._failed_since: float | None = None
        self._delay = 0.1

    def worked(self) -> None:
        """What came before is forgotten."""
        self._failed_since, self._delay = None, 0.1

    async def failed(self, error: ServerUnavailableError) -> None:
        """Wait a while. Raises `error` when it has been going on for too long."""
        now = time.monotonic()
        if self._failed_since is None:
            self._failed_since = now
        if now - self._failed_since > PATIENCE_SECONDS:
            raise error
        await asyncio.sleep(self._delay)
        self._delay = min(2.0, self._delay * 2)


def janitor_of(target: Target) -> Target:
    """The target of whoever may SCAN: `cache_janitor`, or a user of the URL's own who is not ours to restrict.

    The janitor's password may come from this process's environment when the settings have none: app hosts do not hold it.
    """
    password = target.janitor_password or os.environ.get("REDIS_JANITOR_PASSWORD")
    pointer = os.environ.get("REDIS_JANITOR_PASSWORD_FILE")
    if not password and pointer:
        password = read_secret_file(Path(pointer), field="REDIS_JANITOR_PASSWORD_FILE")
    if password:
        return target._replace(username=JANITOR, password=password, env_file=None, janitor_password=password)
    if target.username == DEFAULT_USERNAME:
        raise ConfigurationError(
            "REDIS_JANITOR_PASSWORD is not set, and the cache user may not list key names: get it from the operator's "
            "`redkeep secrets show`, and set REDIS_JANITOR_PASSWORD or REDIS_JANITOR_PASSWORD_FILE for this command"
        )
    return target
