"""Invalidation in a secure cache: by epochs that nobody can take back, and by patterns of readable names."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from redkeep.cache.epochs import REFRESH_SECONDS
from tests.redis.caches import ANSWER, CLIENTS, TEXT, opened, plant, secure, stored
from tests.redis.server import Server


@pytest.mark.parametrize("client", CLIENTS)
def test_invalidation_by_epoch(server: Server, client: str) -> None:
    """An operation, or all, at once, without a scan; other operations stay; another process follows within its second."""

    async def work() -> None:
        async with opened(server, redis_client=client) as cache:
            other = secure(server, redis_client=client)
            for operation in ("qa", "qa2", "summarize"):
                await cache.cache_response(TEXT, operation, {}, ANSWER)
            await cache.set("k", 1)
            assert await other.get_cached_response(TEXT, "qa", {}) is not None
            assert len(cache.memory_cache) == 3
            await cache.invalidate_by_operation("qa")
            assert len(cache.memory_cache) == 2
            assert await cache.get_cached_response(TEXT, "qa", {}) is None
            assert await cache.get_cached_response(TEXT, "qa2", {}) is not None
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await other.get_cached_response(TEXT, "qa", {}) is None
            assert await other.get_cached_response(TEXT, "qa2", {}) is not None
            await cache.invalidate_all()
            assert [await cache.get_cached_response(TEXT, each, {}) for each in ("qa2", "summarize")] == [None, None]
            assert await cache.get("k") is None
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await other.get("k") is None
            assert cache.performance_monitor.total_invalidations == 2
            await other.close()

    asyncio.run(work())


def test_lost_epochs_bring_nothing_back(server: Server) -> None:
    """When the words are evicted, or planted nonsense, the cache is cold: what was invalid does not come back."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            await cache.invalidate_all()
            for change in (("DEL",), ("SET", "nonsense"), ("SET", "0" * 15)):
                await cache.cache_response(TEXT, "qa", {}, ANSWER)
                with server.log_in() as operator:
                    (names,) = operator.ask(("KEYS", "ai_cache:epoch:*"))
                    for name in names:  # type: ignore[attr-defined]
                        operator.ask((change[0], name, *change[1:]))
                await asyncio.sleep(REFRESH_SECONDS + 0.05)
                assert await cache.get_cached_response(TEXT, "qa", {}) is None

    asyncio.run(work())


def test_an_epoch_played_back_brings_nothing_back(server: Server) -> None:
    """A word from before an invalidation, played back or come with a lagging replica, is refused by whoever saw it replaced; a
    word that was never one gives misses; a lost word does not make old readable names count again."""

    async def work() -> None:
        async with opened(server, redis_read_legacy=True) as cache:
            other = secure(server)
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            assert await other.get_cached_response(TEXT, "qa", {}) is not None
            with server.log_in() as operator:
                (names,) = operator.ask(("KEYS", "ai_cache:epoch:*"))
                words = {name: operator.ask(("GET", name))[0] for name in names}  # type: ignore[attr-defined]
                await cache.invalidate_by_operation("qa")
                await asyncio.sleep(REFRESH_SECONDS + 0.05)
                assert await other.get_cached_response(TEXT, "qa", {}) is None
                for replayed in (words, dict.fromkeys(words, b"0123456789abcdef")):
                    for name, word in replayed.items():
                        assert operator.ask(("SET", name, word)) == ["OK"]
                    await asyncio.sleep(REFRESH_SECONDS + 0.05)
                    for each in (cache, other):
                        assert await each.get_cached_response(TEXT, "qa", {}) is None
                plant(server, {cache.key_generator.generate_cache_key(TEXT, "qa", {}): json.dumps(ANSWER).encode()})
                await cache.invalidate_by_operation("qa")
                operator.ask(("DEL", *words))  # type: ignore[arg-type]
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await cache.get_cached_response(TEXT, "qa", {}) is None
            await other.close()

    asyncio.run(work())


def test_value_computed_before_an_invalidation(server: Server) -> None:
    """It was stale when it came: it is not served afterwards."""

    async def work() -> None:
        async with opened(server) as cache:
            started, go_on = asyncio.Event(), asyncio.Event()

            async def compute() -> str:
                started.set()
                await go_on.wait()
                return "stale"

            await cache.get("k")
            name = cache._entry_name("k")
            task = asyncio.create_task(cache.get_or_set("k", compute))
            await started.wait()
            await cache.invalidate_all()
            assert cache._entry_name("k") != name
            go_on.set()
            assert await task == "stale"
            assert await cache.get("k") is None

    asyncio.run(work())


def test_patterns_of_readable_names_need_the_janitor(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """With its password old names are found by their text; without it the call says what is missing, and nothing is refused."""
    names = {"ai_cache:op:qa|txt:about cats": b"1", "ai_cache:op:qa|txt:about dogs": b"1"}

    async def work() -> None:
        async with opened(server, redis_janitor_password=server.passwords["cache_janitor"]) as cache:
            plant(server, names)
            assert await cache.invalidate_pattern("cats") == 1
            assert [name for name in stored(server) if "txt" in name] == ["ai_cache:op:qa|txt:about dogs"]
        async with opened(server) as cache:
            plant(server, names)
            assert await cache.invalidate_pattern("cats") == 0
            assert cache.performance_monitor.invalidation_events[-1].additional_data["reason"] == "configuration"  # type: ignore[index]

    asyncio.run(work())
    assert any("REDIS_JANITOR_PASSWORD" in str(getattr(record, "reason", "")) for record in caplog.records)


def test_an_invalidation_in_the_window_leaves_others_alone(server: Server) -> None:
    """While readable names are still read, invalidating everything, an operation or a pattern removes readable entries alone: what
    is sealed in another namespace stays a hit, and our own is a miss by its epoch, under aliases too."""
    readable = {f"ai_cache:op:{verb}|txt:t": b'raw:{"n": 1}' for verb in ("qa", "summarize")}
    window: dict[str, Any] = {"redis_janitor_password": server.passwords["cache_janitor"], "redis_read_legacy": True}

    async def work() -> None:
        async with opened(server, redis_namespace="ours", **window) as ours, secure(server, redis_namespace="theirs") as theirs:
            for invalidate, removed in (
                (ours.invalidate_all, 2), (lambda: ours.invalidate_by_operation("qa"), 1),
                (lambda: ours.invalidate_pattern("qa"), 1), (lambda: ours.invalidate_pattern("epoch"), 0),
            ):  # fmt: skip
                plant(server, readable)
                for cache in (ours, theirs):
                    await cache.cache_response("long " * 200, "qa", {}, {"n": 2})
                assert await ours.get_cached_response("long " * 200, "qa", {})
                ours.memory_cache.clear()
                assert await invalidate() == removed
                found = await theirs.get_cached_response("long " * 200, "qa", {})
                assert found is not None, invalidate
                assert found["n"] == 2
                with server.log_in() as operator:
                    (words,) = operator.ask(("KEYS", "ai_cache:epoch:*"))
                assert len(words) >= 4  # type: ignore[arg-type]
            await ours.invalidate_all()
            assert await ours.get_cached_response("long " * 200, "qa", {}) is None

    asyncio.run(work())
