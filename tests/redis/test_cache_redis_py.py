"""The client on redis-py's connections, and the rarer ways through the cache."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest

from redkeep.access import redis_py
from redkeep.access.redis_py import RedisPyClient
from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import generate_key
from redkeep.errors import AuthenticationError, ConfigurationError, PermissionDeniedError, RedkeepError, ServerUnavailableError
from tests.redis.caches import empty, opened, plant, secure, stored
from tests.redis.server import Server, free_port
from tests.redis.transport_peer import peer


def test_commands(server: Server) -> None:
    """Replies are bytes, None and int; errors are ours; a batch has them in their places; closed is closed."""
    empty(server)

    async def work() -> None:
        client = RedisPyClient(server.target(), max_connections=2)
        assert not client.connected
        assert await client.execute("PING") == b"PONG"
        assert client.connected
        assert await client.execute("SET", "ai_cache:a", b"\x00\xff") == b"OK"
        assert await client.execute("GET", "ai_cache:a") == b"\x00\xff"
        assert await client.execute("GET", "ai_cache:b") is None
        assert await client.execute("SET", "ai_cache:a", 1, "NX") is None
        assert await client.execute_many([]) == []
        commands = [("GET", "ai_cache:a"), ("GET", "other"), ("INCR", "ai_cache:a"), ("GET", "ai_cache:a", "x"), ("PING",)]
        replies = await client.execute_many(commands)
        assert [type(reply) for reply in replies] == [bytes, PermissionDeniedError, PermissionDeniedError, ConfigurationError, bytes]
        with pytest.raises(PermissionDeniedError):
            await client.execute("SCAN", 0)
        with pytest.raises(ConfigurationError, match="rejects the command"):
            await client.execute("GET")
        for command in (("GET", object()), ("GET", "\ud800")):
            with pytest.raises(ConfigurationError, match="argument"):
                await client.execute(*command)  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="argument"):
                await client.execute_many([command])  # type: ignore[list-item]
        assert set(await asyncio.gather(*(client.execute("PING") for _ in range(300)))) == {b"PONG"}
        assert client.connections <= 2
        await client.close()
        await client.close()
        with pytest.raises(ServerUnavailableError):
            await client.execute("PING")

    asyncio.run(work())


def test_waiting_has_its_deadline_and_its_bound(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a frozen server everyone gets an answer within the deadline, also those who wait for a connection."""
    monkeypatch.setattr(redis_py, "MAX_WAITING", 50)
    own = start()

    async def work() -> None:
        client = RedisPyClient(own.target(), timeout=0.5, max_connections=2)
        await client.execute("PING")
        os.kill(own.process.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            found = await asyncio.gather(*(client.execute("PING") for _ in range(100)), client.execute_many([("PING",)]), return_exceptions=True)
            assert time.monotonic() - begun < 5
            assert {type(each) for each in found} == {ServerUnavailableError}
            assert sum("too many" in str(each) for each in found) >= 40
        finally:
            os.kill(own.process.pid, signal.SIGCONT)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                assert await client.execute("PING") == b"PONG"
                break
            except ServerUnavailableError:
                await asyncio.sleep(0.05)
        assert len(await asyncio.gather(*(client.execute("PING") for _ in range(20)))) == 20
        await client.close()

    asyncio.run(work())


def test_connections_killed_while_idle_and_in_use(server: Server) -> None:
    """Idle dead connections are noticed before they are used; one that breaks in a batch is an unavailable server."""

    async def work() -> None:
        client = RedisPyClient(server.target())
        await asyncio.gather(*(client.execute("PING") for _ in range(20)))
        with server.log_in() as operator:
            operator.ask(("CLIENT", "KILL", "USER", "cache_service"))
        await asyncio.sleep(0.05)
        assert set(await asyncio.gather(*(client.execute("PING") for _ in range(20)))) == {b"PONG"}
        await client.close()
        wrong = RedisPyClient(server.target(), credentials=lambda: ("cache_service", generate_key()))
        for call in (wrong.execute("PING"), wrong.execute_many([("PING",)])):
            with pytest.raises(AuthenticationError):
                await call
        await wrong.close()

    asyncio.run(work())


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n", b"%1\r\n*0\r\n:1\r\n"])
def test_an_answer_that_is_none_is_a_miss(nonsense: bytes) -> None:
    """What does not speak Redis after all gives an error of ours, a miss in the cache, and its connection is not used again."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(nonsense if b"GET" in data else b"+OK\r\n" * data.count(b"*"))

    async def work() -> None:
        async with peer(script) as target:
            client = RedisPyClient(target)
            with pytest.raises(ServerUnavailableError, match="not in the Redis protocol"):
                await client.execute("GET", "ai_cache:k")
            with pytest.raises(ServerUnavailableError, match="not in the Redis protocol"):
                await client.execute_many([("GET", "ai_cache:k")])
            assert client.connections == 0
            await client.close()
            cache = AIResponseCache(target.address.url(tls=False))
            assert await cache.get("k") is None
            assert cache.error_counts["server_unavailable"] == 1
            await cache.close()

    asyncio.run(work())


def test_two_loops_at_once(server: Server) -> None:
    """A client belongs to one running loop; another one is told so."""

    async def work() -> None:
        client = RedisPyClient(server.target())
        await client.execute("PING")

        def elsewhere() -> RedkeepError:
            with pytest.raises(ConfigurationError, match="event loop") as caught:
                asyncio.run(client.execute("PING"))
            return caught.value

        assert await asyncio.to_thread(elsewhere)
        assert await client.execute("PING") == b"PONG"
        await client.close()

    asyncio.run(work())


def test_tls_without_encryption(server: Server) -> None:
    """Without a key: TLS and login, readable names and values, the parent's forms, patterns by the janitor."""

    async def work() -> None:
        options = {"redis_encryption_key": None, "redis_janitor_password": server.passwords["cache_janitor"]}
        async with opened(server, **options) as cache:
            await cache.cache_response("some text", "qa", {}, {"a": 1})
            await cache.set("ai_cache:k", 1)
            assert {b"raw:"} == {value[:4] for value in stored(server).values()}
            found = await cache.get_cached_response("some text", "qa", {})
            assert found is not None
            assert found["a"] == 1
            assert cache._decompress_data(cache._compress_data({"a": 1})) == {"a": 1}
            plant(server, {"ai_cache:k": b"raw:nonsense"})
            assert await cache.get("ai_cache:k") is None
            assert await cache.invalidate_pattern("some text") == 1
            assert await cache.invalidate_by_operation("qa") == 0
            assert (await cache.get_cache_stats())["security"]["encryption"] is not None

    asyncio.run(work())


def test_a_user_with_more_rights(start: Callable[..., Server]) -> None:
    """A server with users of another house: INFO and SCAN are asked of the own user, who may."""
    own = start()

    async def work() -> None:
        async with opened(own, redis_username="operator", redis_cache_password=own.passwords["operator"]) as cache:
            await cache.set("k", 1)
            assert (await cache.get_cache_stats())["redis"]["keys"] == 3
            assert (await cache.get_cache_stats())["redis"]["status"] == "connected"
            plant(own, {"ai_cache:op:qa|txt:cats": b"1"})
            assert await cache.invalidate_pattern("cats") == 1
        with own.log_in() as operator:
            operator.ask(("ACL", "SETUSER", "operator", "-info"))
        async with secure(own, redis_username="operator", redis_cache_password=own.passwords["operator"]) as cache:
            for _ in range(2):
                stats = await cache.get_cache_stats()
                assert (stats["redis"]["status"], stats["redis"]["keys"]) == ("connected", None)
            assert cache.error_counts["permission_denied"] == 1

    asyncio.run(work())


def test_batches_while_things_are_wrong(server: Server) -> None:
    """Many at once: an unreadable one is a miss among hits; without Redis nothing raises."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.set_many({"a": 1, "b": 2})
            plant(server, {cache._entry_name("a"): b"planted"})
            assert await cache.get_many(["a", "b"]) == {"b": 2}
            assert cache.error_counts["decryption"] == 1
            with server.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "-mget", "-set", "-unlink"))
                try:
                    assert await cache.get_many(["a", "b"]) == {}
                    await cache.set_many({"a": 1})
                    await cache.set("a", 1)
                    assert await cache.delete_many(["b"]) == 0
                    assert cache.error_counts["permission_denied"] >= 4
                finally:
                    operator.ask(("ACL", "SETUSER", "cache_service", "+mget", "+set", "+unlink"))
        away = secure(server, redis_url=f"rediss://127.0.0.1:{free_port()}/0")
        assert await away.get_many(["a"]) == {}
        await away.set_many({"a": 1})
        assert await away.delete_many(["a"]) == 0
        assert await away.invalidate_all() == 0
        assert away.performance_monitor.invalidation_events[-1].additional_data["status"] == "failed"  # type: ignore[index]
        await away.close()

    asyncio.run(work())


def test_an_invalidation_without_redis_is_made_up_for(start: Callable[..., Server]) -> None:
    """What was invalidated while Redis was away is invalid when it is back, here and in other processes."""
    own = start()

    async def work() -> None:
        async with opened(own) as cache:
            other = secure(own)
            await cache.set("k", 1)
            assert await other.get("k") == 1
            with own.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "-set"))
                await cache.invalidate_all()
                operator.ask(("ACL", "SETUSER", "cache_service", "+set"))
            assert await cache.get("k") is None
            await asyncio.sleep(1.1)
            await cache.get("k")
            await asyncio.sleep(1.1)
            assert await other.get("k") is None
            await other.close()

    asyncio.run(work())


def test_small_things(server: Server) -> None:
    """Attributes that can be set, copies in memory, and settings from the environment alone."""
    cache = AIResponseCache(memory_cache_size=2, text_size_tiers={"small": 5, "medium": 6, "large": 7})
    cache._update_memory_cache("a", {"x": 1})
    assert cache.memory_cache["a"] == {"x": 1}
    assert cache.memory_cache_order == ["a"]
    cache.memory_cache_size = 0
    cache._update_memory_cache("b", 1)
    assert "b" not in cache.memory_cache
    cache.compression_level = 9
    assert (cache.compression_level, cache.compression_threshold) == (9, 1000)
    assert cache._get_text_tier("12345") == "medium"
    sealed = SecureAIResponseCache(encryption_key=generate_key(), compression="zstd")
    assert sealed._decompress_data(sealed._compress_data({"a": "b" * 2000})) == {"a": "b" * 2000}
    assert asyncio.run(secure(server).connect())
