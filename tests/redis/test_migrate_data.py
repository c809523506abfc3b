"""`redkeep migrate-data` on a real server: every old form and every older key, beside live traffic, interrupted, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.migration.reencrypt import Counts, DataMigration
from tests.redis.caches import empty, plant, secure, stored
from tests.redis.old_application import Request, fill, requests
from tests.redis.server import Server


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_JANITOR_PASSWORD", "REDIS_JANITOR_PASSWORD_FILE", "REDIS_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)


def migration(server: Server, **options: Any) -> DataMigration:
    changes = {name: options.pop(name) for name in list(options) if name.startswith("redis_")}
    target = server.target(**{"redis_janitor_password": server.passwords["cache_janitor"], **changes})
    return DataMigration(target, **{"rate": 0, **options})


def migrate(server: Server, **options: Any) -> Counts:
    return asyncio.run(migration(server, **options).run())


def times(server: Server) -> dict[str, int]:
    """Milliseconds to live of every entry."""
    names = list(stored(server))
    with server.log_in() as operator:
        return dict(zip(names, operator.ask(*(("PTTL", name) for name in names)), strict=True)) if names else {}  # type: ignore[arg-type]


async def answers(cache: SecureAIResponseCache, asked: list[Request]) -> list[Any]:
    found = [await cache.get_cached_response(*each[:4]) for each in asked]
    return [{name: hit[name] for name in each.answer} if hit else None for each, hit in zip(asked, found, strict=True)]


def read(server: Server, asked: list[Request], **changes: Any) -> list[Any]:
    async def work() -> list[Any]:
        async with secure(server, options={"memory_cache_size": 0}, **changes) as cache:
            assert cache.redis is not None, cache.last_error
            return await answers(cache, asked)

    return asyncio.run(work())


def test_old_entries_are_sealed_and_stay_hits(server: Server) -> None:
    """Every old form, under every kind of old name, is sealed with the time it had: a hit in the window and after it."""
    empty(server)
    asked = list(requests(60))
    fill(server, asked, fernet_key=str(server.settings["redis_encryption_key"]))
    plant(server, {"ai_cache:mine": b'{"my": "secret"}'})
    before = times(server)
    counts = migrate(server)
    assert (counts.readable, counts.left, counts.unreadable, counts.invalidated) == (61, 0, 0, 0)
    assert counts.compared
    lying = stored(server)
    assert not [name for name in lying if "|h:" not in name]
    assert b"secret" not in b"".join(lying.values())
    after = sorted(times(server).values())
    assert all(abs(one - other) < 2000 for one, other in zip(sorted(before.values()), after, strict=True))
    assert [each.answer for each in asked] == read(server, asked, redis_read_legacy=True)[:30] + read(server, asked)[30:]
    assert len(stored(server)) == 61, "an alias stays beside the entry that was read from it"

    async def mine() -> Any:
        async with secure(server) as cache:
            return await cache.get("ai_cache:mine")

    assert asyncio.run(mine()) == {"my": "secret"}
    assert migrate(server).moved == 0


def test_entries_of_an_older_key_outlive_it(server: Server) -> None:
    """After a promotion and the migration the old key can go: answers, keys of one's own, aliases and times are still there."""
    empty(server)
    old, new = generate_key(), generate_key()
    asked = list(requests(40))

    async def write() -> None:
        async with secure(server, redis_encryption_key=old) as cache:
            for each in asked[:20]:
                await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)
            await cache.set("user:1", {"a": 1}, ttl=500)
            await cache.set("ai_cache:op:x|h:" + "ab" * 16, "a name of the caller's own", ttl=500)

    asyncio.run(write())
    fill(server, asked[20:])
    assert migrate(server, redis_encryption_key=old).readable == 20
    before = sorted(times(server).values())
    counts = migrate(server, redis_encryption_key=None, redis_encryption_keys=f"{new},{old}")
    assert (counts.older_key, counts.readable, counts.left, counts.unreadable) == (42, 0, 0, 0)
    prefix = KeyRing.from_strings([new]).primary.prefix
    assert {value[2:11] for value in stored(server).values()} == {prefix}
    assert all(abs(one - other) < 2000 for one, other in zip(before, sorted(times(server).values()), strict=True))
    assert [each.answer for each in asked] == read(server, asked, redis_encryption_key=new)

    async def own() -> list[Any]:
        async with secure(server, redis_encryption_key=new) as cache:
            return [await cache.get("user:1"), await cache.get("ai_cache:op:x|h:" + "ab" * 16)]

    assert asyncio.run(own()) == [{"a": 1}, "a name of the caller's own"]
