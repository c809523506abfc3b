"""The cache with CLIENT TRACKING on real servers: memory answers, and what it answers is what Redis holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from redkeep.cache.secure import SecureAIResponseCache
from redkeep.errors import ConfigurationError
from tests.redis.caches import empty, secure
from tests.redis.server import Server
from tests.redis.transport_peer import proxy

ON = {"redis_client_tracking": True}
TEXT = "a text that is longer than what the memory tier takes without tracking. " * 20


@asynccontextmanager
async def two(server: Server, **changes: Any) -> AsyncIterator[tuple[SecureAIResponseCache, SecureAIResponseCache]]:
    """A cache that remembers, and another process's cache."""
    empty(server)
    async with secure(server, **ON, **changes) as ours, secure(server) as theirs:
        assert ours.redis is not None, ours.last_error
        yield ours, theirs


def from_memory(cache: SecureAIResponseCache) -> bool:
    """Whether the last call was answered from memory."""
    last = cache.performance_monitor.cache_operation_times[-1]
    return last.additional_data["cache_tier"] == "memory"


async def until(wanted: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again, each time after a turn of the loop, 3 s at most."""
    async with asyncio.timeout(3):
        while not await wanted():
            await asyncio.sleep(0.002)


async def heard(cache: SecureAIResponseCache) -> None:
    """What the server said before this moment has arrived: it speaks of changes on the connection that answers."""
    assert cache.redis is not None
    await cache.redis.execute("PING")


def test_what_was_read_is_answered_from_memory(tracked: Server) -> None:
    """The second read of a value or an answer of any length asks nobody; in memory lie hashed names and sealed bytes."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            await theirs.set("k", {"text": "a secret"})
            await theirs.cache_response(TEXT, "qa", {}, {"answer": "a secret"})
            for wanted in (False, True):
                assert await ours.get("k") == {"text": "a secret"}
                assert from_memory(ours) == wanted
                answer = await ours.get_cached_response(TEXT, "qa", {})
                assert answer is not None
                assert answer["answer"] == "a secret"
                assert from_memory(ours) == wanted
            assert all("|h:" in name for name in ours.memory_cache)
            assert len(ours.memory_cache) == 2
            held = [ours.memory_cache.get_bytes(name) or b"" for name in ours.memory_cache]
            assert not any(b"secret" in each for each in held)
            answer["answer"] = "changed by the caller"
            again = await ours.get_cached_response(TEXT, "qa", {})
            assert again is not None
            assert again["answer"] == "a secret"

    asyncio.run(work())


def test_many_are_answered_from_memory(tracked: Server) -> None:
    """get_many remembers what it read and answers what anybody read; one that another process changes is asked for again, alone."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            await theirs.set_many({"a": 1, "b": 2, "c": 3})
            assert await ours.get("a") == 1
            assert await ours.get_many([*"abcd"]) == {"a": 1, "b": 2, "c": 3}
            assert len(ours.memory_cache) == 3
            assert [(await ours.get(key), from_memory(ours)) for key in "abc"] == [(1, True), (2, True), (3, True)]
            await theirs.set("b", "new")
            await heard(ours)
            assert [len(ours.memory_cache), await ours.get_many([*"abc"])] == [2, {"a": 1, "b": "new", "c": 3}]
            tiers = [each.additional_data["cache_tier"] for each in ours.performance_monitor.cache_operation_times[-3:]]
            assert tiers == ["memory", "redis", "memory"]
            assert ours._watch is not None
            assert not ours._watch._reads, "a read that is over is forgotten"

    asyncio.run(work())


def test_a_word_that_overtakes_the_reader_of_many(tracked: Server) -> None:
    """Of several values, the one whose change is named before its reader goes on is not kept; the others are."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            await theirs.set_many({"k": "old", "l": "old"})
            assert await ours.get("unknown") is None
            assert ours.redis is not None
            execute, name = ours.redis.execute, ours._entry_name("k")
            both = {"k": "old", "l": "old"}
            assert await asyncio.gather(execute("PING"), ours.get_many([*"kl"]), execute("DEL", name)) == [b"PONG", both, 1]
            assert list(ours.memory_cache) == [ours._entry_name("l")]
            assert await ours.get_many([*"kl"]) == {"l": "old"}

    asyncio.run(work())


def test_another_process_changes_it(tracked: Server) -> None:
    """A write, a deletion and an invalidation by another process end what memory holds: no later than the next word of the server."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            for number in range(3):
                await theirs.set("k", number)
                await heard(ours)
                assert [await ours.get("k") for _ in range(3)] == [number] * 3
                assert from_memory(ours)
            await theirs.delete("k")
            await heard(ours)
            assert await ours.get("k") is None
            await theirs.cache_response(TEXT, "qa", {}, {"answer": 1})
            assert await ours.get_cached_response(TEXT, "qa", {}) is not None
            assert ours._epochs is not None
            ours._epochs._due = float("inf")  # not for its own curiosity: because the server names the epoch
            await theirs.invalidate_by_operation("qa")
            await heard(ours)
            assert await ours.get_cached_response(TEXT, "qa", {}) is None

    asyncio.run(work())


def test_a_caller_who_does_nothing_else_hears_of_it(tracked: Server) -> None:
    """A loop of hits without any other await ends when another process writes: hits let the event loop have its turns."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            await theirs.set("k", "old")
            assert await ours.get("k") == "old"
            assert ours._epochs is not None
            ours._epochs._due = float("inf")  # else it lets the loop have a turn once a second
            writing = asyncio.create_task(theirs.set("k", "new"))
            for _ in range(100_000):
                if await ours.get("k") == "new":
                    break
            assert writing.done()
            assert await ours.get("k") == "new"

    asyncio.run(work())


def test_a_word_that_overtakes_the_reader(tracked: Server) -> None:
    """A value whose change is named after its reply arrived and before its reader goes on is not kept."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            await theirs.set("k", "old")
            assert await ours.get("unknown") is None
            assert ours.redis is not None
            execute, name = ours.redis.execute, ours._entry_name("k")
            # the first goes out alone, the others in one write; so their replies come in one piece
            assert await asyncio.gather(execute("PING"), ours.get("k"), execute("DEL", name)) == [b"PONG", "old", 1]
            assert await ours.get("k") is None

    asyncio.run(work())


@pytest.mark.parametrize("deaf", [False, True], ids=["told", "not yet told"])
def test_own_writes_are_read(tracked: Server, deaf: bool) -> None:
    """After set, set_many, delete, delete_many, cache_response and an invalidation the next read sees what was written, also
    when the write took the second connection, a read was under way, and the server's word is still to come."""

    async def work() -> None:
        large = random.Random(1).randbytes(300_000).hex()
        async with two(tracked) as (ours, _):
            if deaf:
                assert ours._watch is not None
                ours.redis._tracking._callback = lambda names: None  # type: ignore[union-attr]  # the transport's
            for value in ("one", large + "1", "two", large + "2"):
                await asyncio.gather(ours.get("k"), ours.set("k", value), ours.get("k"))
                assert await ours.get("k") == value
                assert await ours.get("k") == value
            await ours.set_many({"k": 1, "l": 2})
            assert (await ours.get("k"), await ours.get("l")) == (1, 2)
            await ours.delete("k")
            assert await ours.get("k") is None
            assert await ours.delete_many(["l"]) == 1
            assert await ours.get("l") is None
            for answer in (1, 2):
                await ours.cache_response("short", "qa", {}, {"answer": answer})
                for _ in range(2):
                    found = await ours.get_cached_response("short", "qa", {})
                    assert found is not None
                    assert found["answer"] == answer
            await ours.invalidate_all()
            assert await ours.get_cached_response("short", "qa", {}) is None

    asyncio.run(work())


def test_an_entry_ends_with_its_time(tracked: Server) -> None:
    """Redis names an expired key when it finds it, which can be later: memory goes by the expiry in the sealed value."""

    async def work() -> None:
        async with two(tracked) as (ours, theirs):
            await theirs.set("k", 1, ttl=1)
            assert await ours.get("k") == 1
            await asyncio.sleep(1.05)
            assert await ours.get("k") is None
            assert ours.error_counts["decryption"] == 0

    asyncio.run(work())


def test_a_lost_connection_ends_it(tracked: Server) -> None:
    """When the connection is lost memory is empty, and while the server cannot be reached nothing old is served."""

    async def work() -> None:
        async with proxy(tracked.port) as between:
            through = f"rediss://127.0.0.1:{between.port}/0"
            async with two(tracked, redis_url=through) as (ours, theirs):
                await theirs.set("k", "old")
                assert await ours.get("k") == "old"
                assert len(ours.memory_cache) == 1
                between.cut()

                async def emptied() -> bool:
                    return len(ours.memory_cache) == 0

                await until(emptied)
                await theirs.set("k", "new")
                assert [await ours.get("k") for _ in range(3)] == ["new"] * 3
                assert from_memory(ours)

    asyncio.run(work())


def test_without_a_server_nothing_is_served(start: Callable[..., Server]) -> None:
    """Once the server is gone, a read is a miss: what memory held may have changed."""

    async def work() -> None:
        own = start()
        with own.log_in() as operator:
            operator.ask(("ACL", "SETUSER", "cache_service", "+client|tracking"))
        async with two(own) as (ours, theirs):
            await theirs.set("k", "old")
            assert await ours.get("k") == "old"
            own.stop()

            async def gone() -> bool:
                return await ours.get("k") is None

            await until(gone)
            await ours.cache_response("short", "qa", {}, {"answer": 1})
            assert len(ours.memory_cache) == 0

    asyncio.run(work())


def test_never_back_to_what_was(tracked: Server, soak: bool) -> None:
    """Readers and writers of a few keys while connections are cut: no reader sees a key go back to an earlier version, and at
    rest every read gives the last one."""
    versions, chance = 20_000 if soak else 1_500, random.Random(7)

    async def work() -> tuple[int, int]:
        keys = [f"k{number}" for number in range(5)]
        last, done = dict.fromkeys(keys, 0), False
        back, hits, reads = [], 0, 0
        async with proxy(tracked.port) as between, two(tracked, redis_url=f"rediss://127.0.0.1:{between.port}/0") as (ours, theirs):

            async def write() -> None:
                nonlocal done
                for number in range(1, versions + 1):
                    key = chance.choice(keys)
                    await (ours if chance.random() < 0.1 else theirs).set(key, number)
                    last[key] = number
                    if not number % 300:
                        between.cut()
                    if chance.random() < 0.5:
                        await asyncio.sleep(0)
                done = True

            async def read() -> None:
                nonlocal hits, reads
                seen = dict.fromkeys(keys, 0)
                while not done:
                    key = chance.choice(keys)
                    value = await ours.get(key)
                    reads += 1
                    if value is None:  # a miss: not yet there, or no connection
                        await asyncio.sleep(0)
                        continue
                    hits += from_memory(ours)
                    if value < seen[key]:
                        back.append((key, seen[key], value))
                    seen[key] = value

            await asyncio.gather(write(), *(read() for _ in range(6)))
            await until(lambda: ours.connect())
            for key in keys:
                last[key] = await theirs.get(key)
            await heard(ours)
            for _ in range(2):
                assert {key: await ours.get(key) for key in keys} == last
            assert from_memory(ours)
        assert back == []
        return hits, reads

    hits, reads = asyncio.run(work())
    print(f"{versions} writes, {reads} reads, {hits} from memory, 0 went back")
    assert hits > 100


def test_without_the_grant_it_goes_on_without_memory(server: Server) -> None:
    """Where the ACL does not grant it the cache works, counts it, and keeps nothing that nobody watches."""

    async def work() -> None:
        async with two(server) as (ours, theirs):
            assert ours.error_counts["permission_denied"] == 1
            for number in range(2):
                await theirs.set("k", number)
                await ours.cache_response("short", "qa", {}, {"answer": number})
                assert await ours.get("k") == number
                assert await ours.get_cached_response("short", "qa", {}) is not None
            assert len(ours.memory_cache) == 0
            assert ours.error_counts["permission_denied"] == 1

    asyncio.run(work())
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))


def test_settings_that_contradict_each_other(server: Server) -> None:
    """Tracking needs our transport, which hears of changes, and a key, without which nothing is sealed."""
    with pytest.raises(ConfigurationError, match="REDIS_CLIENT_TRACKING needs REDIS_CLIENT=transport"):
        secure(server, **ON, redis_client="redis-py")
    with pytest.raises(ConfigurationError, match="REDIS_CLIENT_TRACKING keeps encrypted values only"):
        secure(server, **ON, redis_encryption_key=None)


def test_arguments_heed_the_variable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache made from arguments takes REDIS_CLIENT_TRACKING from the environment, as it takes REDIS_CLIENT."""
    monkeypatch.setenv("REDIS_CLIENT_TRACKING", "true")
    cache = SecureAIResponseCache(
        f"rediss://127.0.0.1:{server.port}/0", redis_username="cache_service", redis_password=server.passwords["cache_service"],
        encryption_key=str(server.settings["redis_encryption_key"]), redis_tls_ca_file=str(server.settings["redis_tls_ca_file"]),
    )  # fmt: skip
    assert cache._watch is not None
    monkeypatch.setenv("REDIS_CLIENT_TRACKING", "perhaps")
    with pytest.raises(ConfigurationError, match="REDIS_CLIENT_TRACKING must be true or false"):
        SecureAIResponseCache(f"rediss://127.0.0.1:{server.port}/0", redis_password=server.passwords["cache_service"])
