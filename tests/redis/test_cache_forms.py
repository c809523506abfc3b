"""Keys, namespaces and old forms of values in a secure cache: what is read, what is not, and how it comes under the new key."""

from __future__ import annotations

import asyncio
import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from redkeep.cache.epochs import REFRESH_SECONDS
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import generate_key
from tests.redis.caches import ANSWER, CLIENTS, LONG, TEXT, empty, opened, plant, secure, stored
from tests.redis.server import Server


@pytest.mark.parametrize("client", CLIENTS)
def test_rotation(server: Server, client: str) -> None:
    """add, promote, retire, in processes that disagree for a while: every value stays readable, none is replaced by an old one."""
    old, new = generate_key(), generate_key()

    def of(*keys: str) -> SecureAIResponseCache:
        changes = {"redis_encryption_key": None, "redis_encryption_keys": ",".join(keys)}
        return secure(server, redis_client=client, options={"memory_cache_size": 0}, **changes)

    async def work() -> None:
        empty(server)
        before, added, promoted, retired = of(old), of(old, new), of(new, old), of(new)
        async with before, added, promoted, retired:
            await before.set("k", "first")
            await before.cache_response(TEXT, "qa", {}, ANSWER)
            assert await added.get("k") == "first"
            assert await promoted.get("k") == "first"  # and re-sealed under the new key
            assert await promoted.get_cached_response(TEXT, "qa", {}) is not None
            assert await retired.get("k") == "first"
            assert await retired.get_cached_response(TEXT, "qa", {}) is not None
            await promoted.set("k", "second")
            assert [await each.get("k") for each in (added, promoted, retired)] == ["second"] * 3
            await added.set("k", "third")
            assert [await each.get("k") for each in (added, promoted)] == ["third"] * 2
            assert await promoted.get_many(["k"]) == {"k": "third"}
            await promoted.delete("k")
            assert [await each.get("k") for each in (before, added, promoted)] == [None] * 3
            await added.set_many({"m": 1})
            await promoted.invalidate_all()
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert [await each.get("m") for each in (added, promoted)] == [None, None]
            for cache in (before, added, promoted, retired):
                assert cache.error_counts["decryption"] == 0

    asyncio.run(work())


def test_namespaces(server: Server) -> None:
    """Tenants with one key do not see, replace, or invalidate each other's values."""

    async def work() -> None:
        async with opened(server, redis_namespace="a") as one, secure(server, redis_namespace="b") as other:
            await one.set("k", 1)
            await one.cache_response(TEXT, "qa", {}, ANSWER)
            assert await other.get("k") is None
            assert await other.get_cached_response(TEXT, "qa", {}) is None
            await other.invalidate_all()
            await other.delete("k")
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await one.get("k") == 1
            assert one._generate_cache_key(TEXT, "qa", {}) != other._generate_cache_key(TEXT, "qa", {})

    asyncio.run(work())


def old_forms(key: str) -> list[bytes]:
    """One answer in each form of the past."""
    token = Fernet(key).encrypt(pickle.dumps(ANSWER))
    return [
        b"raw:" + pickle.dumps(ANSWER), b"compressed:" + zlib.compress(pickle.dumps(ANSWER)), json.dumps(ANSWER).encode(),
        b"encrypted:" + token, b"compressed_encrypted:" + zlib.compress(b"encrypted:" + token), token,
    ]


def test_migration_window(server: Server) -> None:
    """With read_legacy old values are read under their old names, and sealed under their new ones with the time they have left."""
    key = str(server.settings["redis_encryption_key"])

    async def work() -> None:
        async with opened(server, redis_read_legacy=True) as cache:
            for number, form in enumerate(old_forms(key)):
                text = f"text {number}"
                name = cache.key_generator.generate_cache_key(text, "qa", {})
                plant(server, {name: form})
                with server.log_in() as operator:
                    operator.ask(("EXPIRE", name, "50"))
                found = await cache.get_cached_response(text, "qa", {})
                assert found is not None
                assert found["summary"] == ANSWER["summary"]
                with server.log_in() as operator:
                    operator.ask(("DEL", name))
                await cache.invalidate_memory_cache()
                assert (await cache.get_cached_response(text, "qa", {}) or {}).get("summary") == ANSWER["summary"]
                assert cache.redis is not None
                assert 45 <= await cache.redis.execute("TTL", cache._generate_cache_key(text, "qa", {})) <= 50
            plant(server, {"ai_cache:mine": b'{"old": 1}'})
            assert await cache.get("ai_cache:mine") == {"old": 1}
            await cache.set("ai_cache:mine", {"new": 1})
            assert "ai_cache:mine" not in stored(server)
            assert await cache.get("ai_cache:mine") == {"new": 1}

    asyncio.run(work())


def test_invalidation_reaches_old_values(server: Server) -> None:
    """In the window, also where nobody may scan: what was invalidated is not read under its old name any more."""

    async def work() -> None:
        async with opened(server, redis_read_legacy=True) as cache:
            other = secure(server, redis_read_legacy=True)
            for operation in ("qa", "qa2"):
                plant(server, {cache.key_generator.generate_cache_key(TEXT, operation, {}): json.dumps(ANSWER).encode()})
            assert await other.get_cached_response("another", "qa", {}) is None
            await cache.invalidate_by_operation("qa")
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            for each in (cache, other):
                assert await each.get_cached_response(TEXT, "qa", {}) is None
                assert await each.get_cached_response(TEXT, "qa2", {}) is not None
            await other.close()

    asyncio.run(work())


@pytest.mark.parametrize("mine", ["text", ["a" * 24, 2**40], [None, None]])
def test_a_field_named_like_ours_is_the_callers(server: Server, mine: Any) -> None:
    """An answer's own `_redkeep` comes back, whether it was written and read inside or outside a migration window."""

    async def work() -> None:
        for wrote in (False, True):
            async with opened(server, redis_read_legacy=wrote) as cache:
                await cache.cache_response(LONG, "qa", {}, {"_redkeep": mine})
            for reads in (False, True):
                async with secure(server, redis_read_legacy=reads) as cache:
                    found = await cache.get_cached_response(LONG, "qa", {})
                    assert found is not None
                    assert found["_redkeep"] == mine

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_many_old_values_in_few_round_trips(server: Server, client: str) -> None:
    """Misses of get_many look under the old names together: 300 of them cost a handful of round trips, and move their values."""
    keys = [f"ai_cache:mine:{number}" for number in range(300)]

    async def work() -> None:
        async with opened(server, redis_read_legacy=True, redis_client=client) as cache:
            plant(server, {key: json.dumps({"n": key}).encode() for key in keys[:200]} | {keys[200]: b"no json"})
            assert cache.redis is not None
            trips = 0
            ask, ask_many = cache.redis.execute, cache.redis.execute_many

            def counted(call: Callable[..., Any]) -> Callable[..., Any]:
                def run(*arguments: Any) -> Any:
                    nonlocal trips
                    trips += 1
                    return call(*arguments)

                return run

            cache.redis.execute, cache.redis.execute_many = counted(ask), counted(ask_many)  # type: ignore[method-assign]
            await cache.get_many(["another"])
            before = trips
            found = await cache.get_many(keys)
            assert found == {key: {"n": key} for key in keys[:200]}
            assert trips - before <= 6
            assert keys[200] not in stored(server)
            kept = stored(server, "ai_cache:op:*")
            assert all(cache._entry_name(key) in kept for key in keys[:200])
            plant(server, dict.fromkeys(keys[:200], b"0"))
            assert await cache.get_many(keys) == found

    asyncio.run(work())


def test_old_values_without_the_window(server: Server) -> None:
    """By default nothing of the past is even looked at."""
    key = str(server.settings["redis_encryption_key"])

    async def work() -> None:
        async with opened(server) as cache:
            plant(server, {cache.key_generator.generate_cache_key("t", "qa", {}): old_forms(key)[0], "ai_cache:mine": b"1"})
            assert await cache.get_cached_response("t", "qa", {}) is None
            assert await cache.get("ai_cache:mine") is None

    asyncio.run(work())
