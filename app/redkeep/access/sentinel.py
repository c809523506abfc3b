"""Which server is the primary, by the word of Redis' Sentinels: asked before each connection, so that a failover is followed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from redkeep.access.connection import NONSENSE, new_client
from redkeep.access.loop_lock import LoopLock
from redkeep.errors import ConfigurationError, ServerUnavailableError
from redkeep.target import Target

DEFAULT_PORT: Final = 26379
DEFAULT_NAME: Final = "mymaster"

_FRESH_SECONDS: Final = 1.0
"""Many connections are made at once; one answer is enough for them."""

_EACH_SECONDS: Final = 1.0
"""For connecting to one Sentinel and for its reply: the next one may know."""


class Sentinels(NamedTuple):
    """Where they are, the name they have for the primary, and their own login, which is not Redis'. `repr` leaves the password out."""

    addresses: tuple[tuple[str, int], ...]
    name: str
    username: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"Sentinels({self.name!r} by {', '.join(f'{host}:{port}' for host, port in self.addresses)})"

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Sentinels:
        """From the settings `redis_sentinels`, `redis_sentinel_name`, `redis_sentinel_username`, `redis_sentinel_password`.

        Raises ConfigurationError.
        """
        text = str(fields.get("redis_sentinels") or "")
        addresses = tuple(_address(word) for word in text.replace(",", " ").split())
        if not addresses:
            raise ConfigurationError("REDIS_CLIENT=sentinel needs REDIS_SENTINELS: host:port of each, separated by commas")
        name = str(fields.get("redis_sentinel_name") or DEFAULT_NAME)
        return cls(addresses, name, fields.get("redis_sentinel_username"), fields.get("redis_sentinel_password"))


class Primary:
    """Finds the primary. Sentinels are spoken to as Redis is: by the same TLS, CA and client certificate."""

    def __init__(self, target: Target, sentinels: Sentinels) -> None:
        """`target` gives the TLS. Raises ConfigurationError and CertificateError for files that cannot be used."""
        self._target = target
        self._sentinels = sentinels
        self._lock = LoopLock()
        self._found: tuple[str, int] | None = None
        self._found_at = 0.0

    async def find(self) -> tuple[str, int]:
        """Host and port of the primary of this moment. Raises ServerUnavailableError when no Sentinel names one."""
        async with self._lock.here():
            if self._found is None or time.monotonic() - self._found_at > _FRESH_SECONDS:
                self._found, self._found_at = await self._ask(), time.monotonic()
            return self._found

    def forget(self) -> None:
        """What was found does not answer, or is no primary any more: ask again."""
        self._found = None

    async def _ask(self) -> tuple[str, int]:
        from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
        from redis.exceptions import RedisError

        clients = [new_client(self._of(*address), timeout=_EACH_SECONDS, max_connections=1) for address in self._sentinels.addresses]
        asked = Sentinel([])  # type: ignore[no-untyped-call]
        rejected = ""
        try:
            for client, (host, port) in zip(clients, self._sentinels.addresses, strict=True):
                asked.sentinels = [client]
                try:
                    found, at = await asked.discover_master(self._sentinels.name)
                    return str(found), int(at)
                except MasterNotFoundError:  # it is down, or knows of none: the next one may
                    continue
                except (RedisError, *NONSENSE):  # a Redis, or a Sentinel whose user may not ask
                    rejected = f"{host}:{port} does not answer SENTINEL MASTERS as a Sentinel does; "
        finally:
            for client in clients:
                await client.aclose()
        raise ServerUnavailableError(
            f"{self._sentinels}: none names a primary that is up; {rejected}see SENTINEL MASTERS there, and check REDIS_SENTINELS, "
            "REDIS_SENTINEL_NAME and REDIS_SENTINEL_PASSWORD"
        )

    def _of(self, host: str, port: int) -> Target:
        address = self._target.address._replace(host=host, port=port, database=0, path="", query="")
        return self._target._replace(address=address, username=self._sentinels.username, password=self._sentinels.password)


def _address(word: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{word}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or "@" in word or "/" in word:
        raise ConfigurationError("REDIS_SENTINELS: write host:port of each Sentinel, separated by commas, and no login")
    return host, port or DEFAULT_PORT
