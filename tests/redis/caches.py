"""Caches for the tests: on a hardened server with either client, and what an attacker with the operator's rights can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.settings import Settings
from tests.redis.server import Server

ANSWER = {"summary": "the secret of the house", "confidence": 0.95}
TEXT = "what nobody may read"
LONG = "a long text that nobody may read " * 40
CLIENTS = ("redis-py", "transport")


def settings_of(server: Server, **changes: Any) -> Settings:
    """The settings of the cache user."""
    return Settings(**{**server.settings, **changes})


def secure(server: Server, *, options: dict[str, Any] | None = None, **changes: Any) -> SecureAIResponseCache:
    """A secure cache that has not connected yet."""
    return SecureAIResponseCache.from_settings(settings_of(server, **changes), **(options or {}))


@asynccontextmanager
async def opened(server: Server, *, options: dict[str, Any] | None = None, **changes: Any) -> AsyncIterator[SecureAIResponseCache]:
    """A secure cache on an emptied server."""
    empty(server)
    async with secure(server, options=options, **changes) as cache:
        assert cache.redis is not None, cache.last_error
        yield cache


@asynccontextmanager
async def plain(server: Server, **options: Any) -> AsyncIterator[AIResponseCache]:
    """A cache without security on an emptied server without any."""
    async with AIResponseCache(redis_url=f"redis://127.0.0.1:{server.plain_port}/0", **options) as cache:
        assert await cache.connect(), cache.last_error
        assert cache.redis is not None
        await cache.redis.execute("FLUSHALL")
        yield cache


def empty(server: Server) -> None:
    """Remove every key."""
    with server.log_in() as operator:
        assert operator.ask(("FLUSHALL",)) == ["OK"]


def stored(server: Server, pattern: str = "*") -> dict[str, bytes]:
    """Every string in Redis, seen by the operator, without epochs and locks."""
    with server.log_in() as operator:
        (names,) = operator.ask(("KEYS", pattern))
        assert isinstance(names, list)
        found = {}
        for name in names:
            text = name.decode("utf-8", "surrogatepass")
            if not text.startswith(("ai_cache:epoch:", "ai_cache:lock:")):
                (value,) = operator.ask(("GET", name))
                if isinstance(value, bytes):
                    found[text] = value
        return found


def plant(server: Server, values: dict[str, bytes]) -> None:
    """Write as somebody who may write anything."""
    with server.log_in() as operator:
        for name, value in values.items():
            assert operator.ask(("SET", name, value)) == ["OK"]
