"""One run at a time on the entries of a Cluster: a lease that lies there, names its holder, and ends by itself when he does.

On one server WATCH shows two runs to each other. Between two servers nothing does: what one has moved, the other would take for
deleted by an application, and remove at its new place.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from redkeep.cache.epochs import Ask
from redkeep.cache.keys import LOCK_PREFIX
from redkeep.errors import ConfigurationError, RedkeepError

LEASE_SECONDS: Final = 15.0
"""How long a run that died keeps others out; a failover takes less."""

RENEW_SECONDS: Final = 3.0

_MARGIN: Final = 1.0
"""Our clock and the server's need not run alike."""

_LOOK_SECONDS: Final = 0.5
_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(_BOOT)


class Lease:
    """The right to move the entries of one namespace."""

    def __init__(self, ask: Ask, namespace: str, *, clock: Callable[[], float] = _clock) -> None:
        """`ask` executes one Redis command."""
        self._ask = ask
        self._name = f"{LOCK_PREFIX}migrate-data:{namespace}"
        self._token = f"process {os.getpid()} on {socket.gethostname()[:64]} ({secrets.token_hex(4)})".encode()
        self._clock = clock
        self._until = -math.inf

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold it for the block. Raises ConfigurationError that names who else does; one who has died is waited for."""
        before = math.inf
        while (other := await self._hold()) is not None:
            left = float(await self._ask("PTTL", self._name))
            if left > before:  # renewed since: he is alive
                raise ConfigurationError(f"{_shown(other)} is at work on the entries of this Cluster; run again when that has ended")
            before = left
            await asyncio.sleep(_LOOK_SECONDS)
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._release()

    async def check(self) -> None:
        """Whoever is about to remove an entry asks first. Raises ConfigurationError when another run has it by now."""
        if self._clock() >= self._until and (other := await self._hold()) is not None:
            raise ConfigurationError(
                f"this run stood still for {LEASE_SECONDS:.0f} s or more, and {_shown(other)} has begun; run again when that has ended"
            )

    async def _hold(self) -> bytes | None:
        """Take or renew it; returns who has it when that is another."""
        begun = self._clock()
        milliseconds = int(LEASE_SECONDS * 1000)
        holder = await self._ask("GET", self._name)
        if holder is None:
            await self._ask("SET", self._name, self._token, "NX", "PX", milliseconds)
        elif holder == self._token:
            await self._ask("PEXPIRE", self._name, milliseconds)
        else:
            self._until = -math.inf
            return bytes(holder)
        holder = await self._ask("GET", self._name)
        ours = holder == self._token
        self._until = begun + LEASE_SECONDS - _MARGIN if ours else -math.inf
        return None if ours else holder or b"another run"

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._hold()
            except RedkeepError:  # `check` asks again before it is too late
                continue

    async def _release(self) -> None:
        try:
            if await self._ask("GET", self._name) == self._token:
                await self._ask("UNLINK", self._name)
        except RedkeepError:  # it ends by itself
            return


def _shown(holder: bytes) -> str:
    """What lies there is whoever's that may write: nothing that steers a terminal."""
    text = holder[:120].decode("utf-8", "replace")
    return text if text.isprintable() else ascii(text)
