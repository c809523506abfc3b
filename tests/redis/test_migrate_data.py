"""`redkeep migrate-data` on a real server: every old form and every older key, and back."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from redkeep.crypto.keyring import KeyRing, generate_key
from tests.redis.caches import CLIENTS, empty, plant, secure, stored
from tests.redis.moving import answers, ends, migrate, read
from tests.redis.old_application import fill, requests
from tests.redis.server import Server


def test_old_entries_are_sealed_and_stay_hits(server: Server) -> None:
    """Every old form, under every kind of old name, is sealed with the time it had: a hit in the window and after it."""
    empty(server)
    asked = list(requests(60))
    fill(server, asked, fernet_key=str(server.settings["redis_encryption_key"]))
    plant(server, {"ai_cache:mine": b'{"my": "secret"}'})
    before = ends(server)
    counts = migrate(server)
    assert (counts.readable, counts.left, counts.unreadable, counts.invalidated) == (61, 0, 0, 0)
    assert counts.compared
    lying = stored(server)
    assert not [name for name in lying if "|h:" not in name]
    assert b"secret" not in b"".join(lying.values())
    after = sorted(ends(server).values())
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
    before = sorted(ends(server).values())
    counts = migrate(server, redis_encryption_key=None, redis_encryption_keys=f"{new},{old}")
    assert (counts.older_key, counts.readable, counts.left, counts.unreadable) == (42, 0, 0, 0)
    prefix = KeyRing.from_strings([new]).primary.prefix
    assert {value[2:11] for value in stored(server).values()} == {prefix}
    assert all(abs(one - other) < 2000 for one, other in zip(before, sorted(ends(server).values()), strict=True))
    assert [each.answer for each in asked] == read(server, asked, redis_encryption_key=new)

    async def own() -> list[Any]:
        async with secure(server, redis_encryption_key=new) as cache:
            return [await cache.get("user:1"), await cache.get("ai_cache:op:x|h:" + "ab" * 16)]

    assert asyncio.run(own()) == [{"a": 1}, "a name of the caller's own"]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
def test_aliases_are_entries_like_others(server: Server, client: str, closed: bool) -> None:
    """With the window closed or open: read alone and in one call for many, replaced, deleted, invalidated, and gone with their time."""
    empty(server)
    keys = [f"ai_cache:user:{number}" for number in range(6)]
    asked = list(requests(6))
    fill(server, asked)
    plant(server, {key: json.dumps(number).encode() for number, key in enumerate(keys)})
    assert migrate(server).readable == 12

    async def work() -> None:
        async with secure(server, redis_client=client, redis_read_legacy=not closed, options={"memory_cache_size": 0}) as cache:
            assert await cache.get_many([*keys[:3], "ai_cache:none"]) == dict(zip(keys, range(3), strict=False))
            assert await cache.get(keys[3]) == 3
            await cache.set(keys[4], "new")
            await cache.delete(keys[5])
            await cache.delete(keys[4])
            assert await cache.get_many(keys[4:]) == {}
            assert await cache.get_many(keys[:4]) == dict(zip(keys, range(4), strict=False))
            assert len(stored(server, "ai_cache:op:_entry|*")) == 4
            summarize = [each for each in asked if each.operation == "summarize"]
            await cache.cache_response(*summarize[0][:3], {"answer": "new"}, summarize[0].question)
            await cache.invalidate_by_operation("summarize")
            assert await answers(cache, summarize) == [None, None]
            others = [each for each in asked if each.operation != "summarize"]
            assert await answers(cache, others) == [each.answer for each in others]
            short = next(each for each in others if len(each.text) < 1000)
            wrong = short._replace(text=short.text.replace("|", "_"))  # the same old name; whose answer it was is known by now
            assert wrong.name == short.name
            assert await answers(cache, [wrong]) == [None]

    asyncio.run(work())


def test_what_was_invalidated_stays_so(server: Server) -> None:
    """Entries from before an invalidation are removed, readable and sealed ones, not brought back under new names."""
    empty(server)
    old, new = generate_key(), generate_key()
    asked = list(requests(30))
    fill(server, asked)

    async def invalidate() -> None:
        async with secure(server, redis_encryption_key=old, redis_read_legacy=True) as cache:
            assert all(await answers(cache, asked))
            await cache.invalidate_by_operation("qa")

    asyncio.run(invalidate())
    counts = migrate(server, redis_encryption_key=None, redis_encryption_keys=f"{new},{old}")
    assert (counts.invalidated, counts.readable, counts.older_key) == (20, 20, 20)
    found = read(server, asked, redis_encryption_key=new, redis_read_legacy=True)
    assert [each.operation == "qa" for each in asked] == [answer is None for answer in found]
    assert not [name for name in stored(server) if ":qa|" in name]


def test_there_and_back_and_there(server: Server) -> None:
    """The way back gives the old names and plain JSON again, also to what was written since; and forward works anew."""
    empty(server)
    asked = list(requests(30))
    fill(server, asked[:20])
    assert migrate(server).readable == 20

    async def since() -> None:
        async with secure(server, redis_read_legacy=True) as cache:
            await answers(cache, asked[:5])
            await cache.invalidate_by_operation("qa")
            for each in [each for number, each in enumerate(asked) if number >= 20 or each.operation == "qa"]:
                await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)

    asyncio.run(since())
    counts = migrate(server, reverse=True)
    assert (counts.returned, counts.left, counts.without_old_name, counts.unreadable) == (30, 0, 0, 0)
    assert counts.invalidated == 6
    lying = stored(server)
    assert {each.name for each in asked} == set(lying)
    for each in asked:
        answer = json.loads(lying[each.name])
        assert {name: answer[name] for name in each.answer} == each.answer
        assert "_redkeep" not in answer
    left, now = ends(server), time.time()
    assert all(0 <= now + 3600 + number - left[each.name] / 1000 < 60 for number, each in enumerate(asked[:20]) if each.operation != "qa")
    assert migrate(server).readable == 30
    assert [each.answer for each in asked] == read(server, asked)


def test_a_dry_run_writes_nothing(server: Server) -> None:
    """It counts what would be done; every byte and every time in Redis is as before."""
    empty(server)
    fill(server, list(requests(20)))
    before = stored(server)
    assert migrate(server, dry_run=True).readable == 20
    assert before == stored(server)


def test_what_cannot_be_moved_is_left_and_named(server: Server) -> None:
    """Foreign keys, damage, and other kinds of values stay where they are, are counted, and stop nothing."""
    empty(server)
    other = generate_key()

    async def write() -> None:
        async with secure(server, redis_encryption_key=other) as cache:
            await cache.set("a", 1)

    asyncio.run(write())
    fill(server, list(requests(3)))
    plant(server, {"ai_cache:op:qa|txt:damaged": b"raw:\x80\x04no", "ai_cache:\xff\xfe": b"1", "ai_cache:op:qa|h:" + "0" * 32: b"raw:1"})
    with server.log_in() as operator:
        assert operator.ask(("LPUSH", "ai_cache:list", "x"), ("SET", b"ai_cache:\xff", b"1")) == [1, "OK"]  # type: ignore[arg-type]
    counts = migrate(server)
    key_id = KeyRing.from_strings([other]).primary.key_id.hex()
    assert counts.foreign == {key_id: 1}
    assert (counts.readable, counts.unreadable, counts.left) == (4, 5, 0)
    assert migrate(server, reverse=True).returned == 4
