"""CLIENT TRACKING on the transport's connection: the server says which keys changed, and silence is never taken for freshness."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from redkeep.access.failures import WireError
from redkeep.access.limits import Limits
from redkeep.access.transport import Transport
from redkeep.errors import PermissionDeniedError
from tests.redis.server import Server
from tests.redis.transport_peer import peer, proxy


def change(server: Server, *command: str) -> None:
    """Somebody else's write."""
    with server.log_in() as operator:
        operator.ask(command)


async def seen(told: list[Any], wanted: Any) -> None:
    """Wait until the callback was told, 3 s at most."""
    end = time.monotonic() + 3
    while wanted not in told and time.monotonic() < end:
        await asyncio.sleep(0.005)
    assert wanted in told


def test_what_was_read_and_changed_is_named(tracked: Server) -> None:
    """A key read here and changed by another is named once; keys that were not read here never are, nor are other tenants'."""

    async def main() -> list[Any]:
        told: list[Any] = []
        async with Transport(tracked.target()) as transport:
            assert not transport.tracking
            await transport.enable_tracking(told.append)
            assert transport.tracking
            assert told == [None]
            await transport.execute("SET", "ai_cache:t1", "1", "EX", 60)
            assert await transport.execute("GET", "ai_cache:t1") == b"1"
            for key in ("ai_cache:unread", "somebody:else", "ai_cache:t1", "ai_cache:t1"):
                await asyncio.to_thread(change, tracked, "SET", key, "2")
            await seen(told, [b"ai_cache:t1"])
            assert await transport.execute("GET", "ai_cache:t1") == b"2"
            await asyncio.to_thread(change, tracked, "DEL", "ai_cache:t1", "ai_cache:unread", "somebody:else")
            await asyncio.sleep(0.1)
        return told

    assert asyncio.run(main()) == [None, [b"ai_cache:t1"], [b"ai_cache:t1"], None]


def test_own_writes_and_expiries_are_named_too(tracked: Server) -> None:
    """An own write, also on the second connection, an expiry and FLUSHALL end what was remembered."""

    async def main() -> None:
        told: list[Any] = []
        async with Transport(tracked.target()) as transport:
            await transport.enable_tracking(told.append)
            for key, write in (("own", ("SET", "v2", "EX", 60)), ("large", ("SET", "v" * 300_000, "EX", 60)), ("short", ())):
                await transport.execute("SET", f"ai_cache:{key}", "v", "PX", 400)
                await transport.execute("GET", f"ai_cache:{key}")
                if write:
                    await transport.execute(write[0], f"ai_cache:{key}", *write[1:])
                else:  # Redis expires keys in its own time, or when somebody looks: a memory must keep the expiry itself
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(change, tracked, "EXISTS", f"ai_cache:{key}")
                await seen(told, [f"ai_cache:{key}".encode()])
            told.clear()
            await asyncio.to_thread(change, tracked, "FLUSHALL")
            await seen(told, None)

    asyncio.run(main())


def test_a_lost_connection_flushes_and_tracks_again(tracked: Server) -> None:
    """At the loss everything is forgotten and `tracking` is off; the next connection tracks, after one more flush."""

    async def main() -> None:
        told: list[Any] = []
        async with proxy(tracked.port) as between:
            target = tracked.target(redis_url=f"rediss://127.0.0.1:{between.port}/0")
            async with Transport(target) as transport:
                await transport.enable_tracking(told.append)
                await transport.execute("SET", "ai_cache:t2", "1", "EX", 60)
                await transport.execute("GET", "ai_cache:t2")
                told.clear()
                between.cut()
                await seen(told, None)
                assert not transport.tracking
                assert await transport.execute("GET", "ai_cache:t2") == b"1"
                assert transport.tracking
                assert told == [None, None]
                await asyncio.to_thread(change, tracked, "SET", "ai_cache:t2", "2")
                await seen(told, [b"ai_cache:t2"])

    asyncio.run(main())


def test_a_closed_loop_or_a_fork_tells_nothing(tracked: Server) -> None:
    """When nobody listens any more, `tracking` says so: in a child, and once the event loop is closed; the next loop flushes."""
    told: list[Any] = []
    transport = Transport(tracked.target())

    async def begin() -> None:
        await transport.enable_tracking(told.append)
        child = os.fork()
        if child == 0:
            os._exit(int(transport.tracking or transport.connected))
        assert os.waitpid(child, 0)[1] == 0
        assert transport.tracking

    async def go_on() -> None:
        told.clear()
        await transport.execute("PING")
        assert transport.tracking
        await transport.close()

    asyncio.run(begin())
    assert not transport.tracking
    assert not transport.connected
    asyncio.run(go_on())
    assert told[:2] == [None, None]


def test_without_the_grant_it_is_refused(server: Server) -> None:
    """The ACL without `client|tracking` gives PermissionDeniedError; the cache goes on without, and stays off."""

    async def main() -> None:
        async with Transport(server.target()) as transport:
            for connected in (False, True):
                assert transport.connected == connected
                with pytest.raises(PermissionDeniedError):
                    await transport.enable_tracking(lambda keys: None)
                assert not transport.tracking
                assert await transport.execute("PING") == b"PONG"

    asyncio.run(main())
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))


def test_a_silent_tracked_connection_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that has gone without a word is noticed by a PING that stays unanswered: the memory is flushed."""
    monkeypatch.setattr("redkeep.access.lane.HEARTBEAT_SECONDS", 0.1)

    async def main() -> list[Any]:
        told: list[Any] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65_536)
            writer.write(b"%1\r\n+proto\r\n:3\r\n+OK\r\n")
            await reader.read(65_536)
            writer.write(b"+PONG\r\n")
            await asyncio.sleep(10)

        async with peer(script) as target, Transport(target, limits=Limits(seconds=0.3, stall_seconds=0.2)) as transport:
            await transport.enable_tracking(told.append)
            assert transport.tracking
            async with asyncio.timeout(3):
                while transport.tracking:
                    await asyncio.sleep(0.01)
        return told

    assert asyncio.run(main())[:2] == [None, None]


@pytest.mark.parametrize("push", [b">2\r\n+invalidate\r\n:1\r\n", b">2\r\n+invalidate\r\n*1\r\n:1\r\n", b">1\r\n+invalidate\r\n"])
def test_an_odd_invalidation_drops_the_connection(push: bytes) -> None:
    """An invalidation of another shape than the protocol's ends the connection, which flushes, with a named error."""

    async def main() -> list[Any]:
        told: list[Any] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (b"%1\r\n+proto\r\n:3\r\n+OK\r\n", b"+PONG\r\n", push):
                await reader.read(65_536)
                writer.write(answer)

        async with peer(script) as target, Transport(target, limits=Limits(replays=0)) as transport:
            await transport.enable_tracking(told.append)
            with pytest.raises(WireError, match="pushed something that was not requested"):
                await transport.execute("GET", "ai_cache:a")
        return told

    assert asyncio.run(main())[:2] == [None, None]


def test_a_callback_that_fails_harms_no_reply(tracked: Server) -> None:
    """When the callback raises, it is called once more to forget everything, and replies go on."""

    async def main() -> list[Any]:
        told: list[Any] = []

        def faulty(keys: list[bytes] | None) -> None:
            told.append(keys)
            if keys is not None:
                raise RuntimeError("not today")

        async with Transport(tracked.target()) as transport:
            await transport.enable_tracking(faulty)
            await transport.execute("SET", "ai_cache:t3", "1", "EX", 60)
            await transport.execute("GET", "ai_cache:t3")
            await asyncio.to_thread(change, tracked, "SET", "ai_cache:t3", "2")
            await seen(told, [b"ai_cache:t3"])
            assert await transport.execute("GET", "ai_cache:t3") == b"2"
            return told[:3]

    assert asyncio.run(main()) == [None, [b"ai_cache:t3"], None]


def _coherent(transport: Transport, memory: dict[str, bytes], pending: dict[str, int]) -> Callable[[str], Any]:
    async def get(key: str) -> bytes | None:
        if transport.tracking and key in memory:
            return memory[key]
        pending[key] = pending.get(key, 0)
        before = pending[key]
        value: bytes | None = await transport.execute("GET", key)
        if value is not None and transport.tracking and pending.get(key) == before:
            memory[key] = value
        return value

    return get


def test_a_memory_kept_by_it_is_never_stale_for_long(tracked: Server) -> None:
    """A tier of values built on the callback as its docstring says follows another client's writes through random losses of
    the connection: at rest it holds exactly what the server holds."""

    async def main() -> None:
        memory: dict[str, bytes] = {}
        pending: dict[str, int] = {}

        def forget(keys: list[bytes] | None) -> None:
            for key in list(pending) if keys is None else [key.decode() for key in keys]:
                memory.pop(key, None)
                pending[key] = pending.get(key, 0) + 1

        async with proxy(tracked.port) as between, Transport(tracked.target()) as writer:
            target = tracked.target(redis_url=f"rediss://127.0.0.1:{between.port}/0")
            async with Transport(target) as reader:
                await reader.enable_tracking(forget)
                get = _coherent(reader, memory, pending)
                for number in range(300):
                    key = f"ai_cache:l1:{number % 7}"
                    await asyncio.gather(
                        writer.execute("SET", key, f"{key}={number}", "EX", 60), get(key), get(f"ai_cache:l1:{number % 5}")
                    )
                    if number % 60 == 59:
                        between.cut()
                await reader.execute("PING")
                await asyncio.sleep(0.1)
                keys = [f"ai_cache:l1:{number}" for number in range(7)]
                for key in keys:
                    assert await get(key) == await writer.execute("GET", key)
                assert sorted(memory) == keys
                await writer.execute_many([("SET", key, "last", "EX", 60) for key in keys[:3]])
                await asyncio.sleep(0.1)
                assert sorted(memory) == keys[3:]
                for key in keys:
                    assert await get(key) == await writer.execute("GET", key)

    asyncio.run(main())
