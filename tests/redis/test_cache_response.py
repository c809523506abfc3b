"""AIResponseCache on a real server: the contract's interface, shapes and degradation, with its faults mended."""

from __future__ import annotations

import asyncio
import json
import pickle
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from redkeep.cache.interface import CacheInterface
from redkeep.cache.response import AIResponseCache
from redkeep.monitoring.performance import CachePerformanceMonitor
from tests.redis.caches import plain
from tests.redis.server import Server

ANSWER = {"summary": "short", "confidence": 0.95, "nested": {"list": [1, None]}}


def test_attributes() -> None:
    """Every attribute and default of the contract."""
    cache = AIResponseCache()
    assert isinstance(cache, CacheInterface)
    assert (cache.redis, cache.redis_url, cache.default_ttl) == (None, "redis://redis:6379", 3600)
    assert (cache.compression_threshold, cache.compression_level, cache.memory_cache_size) == (1000, 6, 100)
    assert cache.operation_ttls == {"summarize": 7200, "sentiment": 86400, "key_points": 7200, "questions": 3600, "qa": 1800}
    assert cache.text_size_tiers == {"small": 500, "medium": 5000, "large": 50000}
    assert (cache.memory_cache, cache.memory_cache_order) == ({}, [])
    assert isinstance(cache.performance_monitor, CachePerformanceMonitor)
    assert cache.key_generator.performance_monitor is cache.performance_monitor
    assert [cache._get_text_tier("x" * length) for length in (499, 500, 4999, 5000, 50000)] == ["small", "medium", "medium", "large", "xlarge"]
    cache.compression_threshold = 5
    assert cache._compress_data({"a": "b"}).startswith(b"compressed:")
    assert cache._decompress_data(cache._compress_data({"a": "b"})) == {"a": "b"}


def test_round_trip(open_server: Server) -> None:
    """Stored as the contract says: name, marker, time to live, added fields; and read back by another process."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response("a text", "qa", {"n": 1}, ANSWER, "why?")
            name = cache._generate_cache_key("a text", "qa", {"n": 1}, "why?")
            assert cache.redis is not None
            raw = await cache.redis.execute("GET", name)
            assert raw.startswith(b"raw:{")
            assert 1795 <= await cache.redis.execute("TTL", name) <= 1800
            async with AIResponseCache(redis_url=cache.redis_url) as other:
                found = await other.get_cached_response("a text", "qa", {"n": 1}, "why?")
            assert found is not None
            assert found.items() >= ANSWER.items()
            assert (found["cache_hit"], found["text_length"], found["compression_used"]) == (True, 6, False)
            assert datetime.fromisoformat(found["cached_at"]).tzinfo is not None
            assert set(found) == {*ANSWER, "cached_at", "cache_hit", "text_length", "compression_used"}

    asyncio.run(work())


def test_large_values_are_compressed(open_server: Server) -> None:
    """Above the threshold zlib, said in the value and in the statistics."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response("t" * 600, "summarize", {}, {"summary": "word " * 1000})
            assert cache.redis is not None
            raw = await cache.redis.execute("GET", cache._generate_cache_key("t" * 600, "summarize", {}))
            assert raw.startswith(b"compressed:")
            found = await cache.get_cached_response("t" * 600, "summarize", {})
            assert found is not None
            assert found["compression_used"]
            assert cache.performance_monitor.get_performance_stats()["compression"]["best_compression_ratio"] < 0.1
            assert len(cache.memory_cache) == 0

    asyncio.run(work())


def test_hits_are_copies(open_server: Server) -> None:
    """Changing an answer changes nobody else's."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response("t", "qa", {}, ANSWER)
            for _ in range(2):
                found = await cache.get_cached_response("t", "qa", {})
                assert found is not None
                assert found["nested"] == {"list": [1, None]}
                found["nested"]["list"].append("mine")

    asyncio.run(work())


def test_requests_that_share_a_name_do_not_share_an_answer(open_server: Server) -> None:
    """The old format gives `a|b` and `a_b` one name; the answer of one is a miss for the other."""

    async def work() -> None:
        async with plain(open_server, memory_cache_size=10) as cache:
            for one, other in ((("a|b", {}), ("a_b", {})), (("t", {"a": 1, "b": 2}), ("t", {"a": "1&b=2"}))):
                assert cache._generate_cache_key(one[0], "qa", one[1]) == cache._generate_cache_key(other[0], "qa", other[1])
                await cache.cache_response(one[0], "qa", one[1], {"for": "one"})
                assert await cache.get_cached_response(other[0], "qa", other[1]) is None
                assert await cache.get_cached_response(one[0], "qa", one[1]) is not None
                await cache.invalidate_memory_cache()
                assert await cache.get_cached_response(other[0], "qa", other[1]) is None

    asyncio.run(work())


@pytest.mark.parametrize("mine", ["text", None, [1, 2], ["a" * 24, 2**40], [None, None], ["a" * 24, 2**40, 7], {"b": 1}])
def test_a_field_named_like_ours_is_the_callers(open_server: Server, mine: Any) -> None:
    """Whatever an answer holds under `_redkeep` comes back, from Redis and from memory."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response("t", "qa", {}, {"_redkeep": mine, "a": 1})
            for _ in range(2):
                found = await cache.get_cached_response("t", "qa", {})
                assert found is not None
                assert (found["_redkeep"], found["a"]) == (mine, 1)
                await cache.invalidate_memory_cache()

    asyncio.run(work())


def test_memory_follows_invalidation_and_ends(open_server: Server) -> None:
    """After invalidation the memory tier serves nothing; its entries end with the operation's time."""

    async def work() -> None:
        async with plain(open_server) as cache:
            cache.operation_ttls["brief"] = 1
            for operation in ("qa", "brief"):
                await cache.cache_response("t", operation, {}, ANSWER)
            assert len(cache.memory_cache) == 2
            assert await cache.invalidate_by_operation("qa") == 1
            assert await cache.get_cached_response("t", "qa", {}) is None
            assert await cache.get_cached_response("t", "brief", {}) is not None
            await asyncio.sleep(1.05)
            assert await cache.get_cached_response("t", "brief", {}) is None
            assert len(cache.memory_cache) == 0

    asyncio.run(work())


@pytest.mark.parametrize("change", ["write", "invalidation"])
def test_a_read_under_way_keeps_nothing_that_has_been_replaced(open_server: Server, change: str) -> None:
    """The old answer is on its way when this process writes another, or invalidates it: who asked may get it, memory may not."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response("t", "qa", {}, {"answer": 1})
            cache.memory_cache.clear()
            here, go, ask = asyncio.Event(), asyncio.Event(), cache._execute

            async def late(*command: Any) -> Any:
                reply = await ask(*command)
                if command[0] == "GET":
                    here.set()
                    await go.wait()
                return reply

            cache._execute = late  # type: ignore[method-assign]
            reader = asyncio.create_task(cache.get_cached_response("t", "qa", {}))
            await here.wait()
            if change == "write":
                await cache.cache_response("t", "qa", {}, {"answer": 2})
            else:
                await cache.invalidate_by_operation("qa")
            go.set()
            old = await reader
            assert old is not None
            assert old["answer"] == 1
            now = await cache.get_cached_response("t", "qa", {})
            assert (None if now is None else now["answer"]) == (2 if change == "write" else None)

    asyncio.run(work())


def test_invalidation_takes_patterns_literally(open_server: Server) -> None:
    """`?` and `*` match themselves, `qa` not `qa2`, and thousands of keys go in batches."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await asyncio.gather(*(cache.cache_response(f"t{i}", "qa", {}, {"i": i}) for i in range(2500)))
            for text in ("what?", "a*b", "a[b]c", "back\\slash"):
                await cache.cache_response(text, "qa2", {}, ANSWER)
            assert await cache.invalidate_pattern("?") == 1
            assert await cache.invalidate_pattern("*") == 1
            assert await cache.invalidate_pattern("[b]") == 1
            assert await cache.invalidate_pattern("\\") == 1
            await cache.cache_response("t", "qa2", {}, ANSWER)
            assert await cache.invalidate_by_operation("qa") == 2500
            assert await cache.get_cached_response("t", "qa2", {}) is not None
            assert await cache.invalidate_pattern("op:qa2", "test") == 1
            await cache.cache_response("t", "qa", {}, ANSWER)
            assert await cache.invalidate_all() == 1
            events = cache.performance_monitor.invalidation_events
            assert (events[-1].operation_context, events[-2].operation_context) == ("manual_clear_all", "test")
            assert cache.get_invalidation_frequency_stats()["total_keys_invalidated"] == 2506

    asyncio.run(work())


def test_entries(open_server: Server) -> None:
    """get, set, delete, and many at once, in the same form as answers."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.set("ai_cache:k", {"x": "y" * 2000}, 50)
            assert cache.redis is not None
            assert (await cache.redis.execute("GET", "ai_cache:k")).startswith(b"compressed:")
            assert 45 <= await cache.redis.execute("TTL", "ai_cache:k") <= 50
            assert await cache.get("ai_cache:k") == {"x": "y" * 2000}
            assert await cache.delete("ai_cache:k") is None
            assert await cache.get("ai_cache:k") is None
            values = {f"k{i}": [i, None] for i in range(1200)}
            await cache.set_many(values)
            assert await cache.get_many([*values, "absent"]) == values
            assert await cache.delete_many(values) == 1200
            assert await cache.get_many(values) == {}

    asyncio.run(work())


def test_old_values(open_server: Server) -> None:
    """What the old class left in Redis is read; with read_legacy off its pickles are misses."""
    value = {**ANSWER, "cached_at": "2024-01-01T00:00:00", "cache_hit": True, "text_length": 1, "compression_used": True}

    async def work() -> None:
        async with plain(open_server) as cache:
            name = cache._generate_cache_key("t", "qa", {})
            strict = AIResponseCache(redis_url=cache.redis_url, read_legacy=False)
            assert cache.redis is not None
            for old, always in (
                (b"raw:" + pickle.dumps(value), False), (b"compressed:" + zlib.compress(pickle.dumps(value), 6), False),
                (json.dumps(value).encode(), True),
            ):
                await cache.redis.execute("SET", name, old)
                await cache.invalidate_memory_cache()
                assert await cache.get_cached_response("t", "qa", {}) == value
                assert (await strict.get_cached_response("t", "qa", {}) is not None) == always
            await strict.close()

    asyncio.run(work())


def test_planted_pickle(open_server: Server, tmp_path: Path) -> None:
    """A pickle with a side effect is a miss, and the side effect does not happen."""

    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.mkdir, (tmp_path / "planted",))

    async def work() -> None:
        async with plain(open_server) as cache:
            assert cache.redis is not None
            await cache.redis.execute("SET", cache._generate_cache_key("t", "qa", {}), b"raw:" + pickle.dumps({"a": Planted()}))
            assert await cache.get_cached_response("t", "qa", {}) is None
            assert cache.error_counts["decryption"] == 1

    asyncio.run(work())
    assert not (tmp_path / "planted").exists()


def test_statistics(open_server: Server) -> None:
    """The three sections and the summary have the contract's keys."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response("t", "qa", {}, ANSWER)
            await cache.get_cached_response("t", "qa", {})
            await cache.get_cached_response("u", "qa", {})
            stats = await cache.get_cache_stats()
            assert set(stats) == {"redis", "memory", "performance"}
            assert set(stats["redis"]) == {"status", "keys", "memory_used", "memory_used_bytes", "connected_clients"}
            assert (stats["redis"]["status"], stats["redis"]["keys"]) == ("connected", 1)
            assert stats["memory"] == {"memory_cache_entries": 1, "memory_cache_size_limit": 100, "memory_cache_utilization": "1/100"}
            summary = cache.get_performance_summary()
            assert set(summary) == {
                "hit_ratio", "total_operations", "cache_hits", "cache_misses", "recent_avg_key_generation_time",
                "recent_avg_cache_operation_time", "total_invalidations", "total_keys_invalidated", "memory_usage",
            }
            assert (summary["cache_hits"], summary["cache_misses"], summary["total_operations"]) == (1, 1, 3)
            assert cache.get_cache_hit_ratio() == pytest.approx(100 / 3)
            assert cache.get_memory_warnings() == []
            assert cache.get_memory_usage_stats()["current"]["memory_cache_entry_count"] == 1
            assert cache.get_invalidation_recommendations() == []
            cache.reset_performance_stats()
            assert cache.get_cache_hit_ratio() == 0.0
            assert (await cache.health_check())["status"] == "healthy"

    asyncio.run(work())


def test_without_redis() -> None:
    """Every call answers: misses with their reason, dropped writes, "unavailable"; small texts are served from memory."""

    async def work() -> None:
        attempts = 0

        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attempts
            attempts += 1
            writer.close()

        nothing = await asyncio.start_server(refuse, "127.0.0.1", 0)
        cache = AIResponseCache(redis_url=f"redis://127.0.0.1:{nothing.sockets[0].getsockname()[1]}")
        assert await cache.connect() is False
        assert cache.redis is None
        for _ in range(200):
            assert await cache.get("k") is None
            await cache.set("k", 1)
        assert attempts <= 40, "400 calls, and the breaker lets few of them try"
        nothing.close()
        assert await cache.get_cached_response("long " * 200, "qa", {}) is None
        assert cache.performance_monitor.cache_operation_times[-1].additional_data["reason"] == "redis_connection_failed"  # type: ignore[index]
        await cache.cache_response("t", "qa", {}, ANSWER)
        found = await cache.get_cached_response("t", "qa", {})
        assert found is not None
        assert found["summary"] == "short"
        stats = await cache.get_cache_stats()
        assert stats["redis"] == {"status": "unavailable", "keys": 0}
        assert await cache.invalidate_pattern("x") == 0
        assert cache.performance_monitor.invalidation_events[-1].additional_data["status"] == "failed"  # type: ignore[index]
        assert (await cache.health_check())["status"] == "degraded"
        assert cache.error_counts["server_unavailable"] >= 1
        assert not cache.error_counts["authentication"]
        await cache.close()
        await cache.close()

    asyncio.run(work())


def test_url_that_cannot_be_used(caplog: pytest.LogCaptureFixture) -> None:
    """connect() never raises; the reason is in the log and in last_error."""

    async def work() -> None:
        cache = AIResponseCache(redis_url="http://nowhere")
        assert await cache.connect() is False
        assert "REDIS_URL" in str(cache.last_error)
        assert await cache.get("k") is None

    asyncio.run(work())
    assert any("redis_not_connected" in record.message for record in caplog.records)


def test_in_one_loop_after_another(open_server: Server) -> None:
    """A cache made once works under several asyncio.run calls, as scripts do."""
    cache = AIResponseCache(redis_url=f"redis://127.0.0.1:{open_server.plain_port}/0")
    asyncio.run(cache.set("k", 1))
    assert asyncio.run(cache.get("k")) == 1
    asyncio.run(cache.close())
