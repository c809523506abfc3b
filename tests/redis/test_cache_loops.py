"""One cache under several event loops, and names at the edge."""

from __future__ import annotations

import asyncio

import pytest

from tests.redis.caches import CLIENTS, empty, opened, secure
from tests.redis.server import Server


@pytest.mark.parametrize("client", CLIENTS)
def test_busy_loops_one_after_another(server: Server, client: str) -> None:
    """Several asyncio.run calls, each with fifty callers who wait for the first connection and for the epochs."""
    empty(server)
    cache = secure(server, redis_client=client)
    assert cache._epochs is not None

    async def work() -> None:
        assert cache._epochs is not None
        await asyncio.gather(*(cache.set(f"k{number}", number) for number in range(50)))
        cache._epochs._due = 0.0
        found = await asyncio.gather(*(cache.get(f"k{number}") for number in range(50)))
        assert list(range(50)) == found

    for _ in range(3):
        asyncio.run(work())
    asyncio.run(cache.close())


def test_the_empty_operation_is_an_operation(server: Server) -> None:
    """Invalidating "" leaves other operations alone; invalidate_all reaches them all."""

    async def work() -> None:
        async with opened(server) as cache:
            text = "longer than the memory tier takes " * 20
            for operation in ("", "qa"):
                await cache.cache_response(text, operation, {}, {"answer": operation})
            await cache.invalidate_by_operation("")
            assert await cache.get_cached_response(text, "", {}) is None
            assert await cache.get_cached_response(text, "qa", {}) is not None
            await cache.invalidate_all()
            assert await cache.get_cached_response(text, "qa", {}) is None

    asyncio.run(work())
