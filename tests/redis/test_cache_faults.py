"""The cache while things go wrong: cancelled callers, a server that is killed, frozen, restarted, out of memory.

Short forms in every run; --soak: 10,000 cancellations with each client, more rounds of each fault.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from redkeep.cache.secure import SecureAIResponseCache
from tests.redis.caches import CLIENTS, opened, secure
from tests.redis.server import Server


@pytest.mark.parametrize("client", CLIENTS)
def test_cancelled_callers(server: Server, client: str, soak: bool) -> None:
    """64 tasks read and write while callers are cancelled at random: 0 values for the wrong key, and the cache goes on."""
    wanted = 10_000 if soak else 400 if client == "redis-py" else 1_500  # there each costs a connection
    chance = random.Random(1)
    cancelled = reads = 0

    async def work() -> None:
        nonlocal cancelled, reads
        async with opened(server, redis_client=client) as cache:
            wrong: list[str] = []

            async def call(key: str) -> None:
                nonlocal reads
                if chance.random() < 0.3:
                    await cache.set(key, {"for": key, "pad": "x" * chance.randrange(3000)}, 60)
                elif chance.random() < 0.3:
                    found = await cache.get_many([key, key + "b"])
                    wrong.extend(name for name, value in found.items() if value["for"] != name)
                else:
                    value = await cache.get(key)
                    reads += value is not None
                    if value is not None and value["for"] != key:
                        wrong.append(key)

            async def client_task() -> None:
                nonlocal cancelled
                while cancelled < wanted:
                    task = asyncio.create_task(call(f"k{chance.randrange(200)}"))
                    if chance.random() < 0.6:
                        for _ in range(chance.randrange(4)):
                            await asyncio.sleep(0)
                        if chance.random() < 0.5:
                            await asyncio.sleep(chance.random() * 0.002)
                        cancelled += task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

            await asyncio.gather(*(client_task() for _ in range(64)))
            assert wrong == []
            await cache.set("after", {"for": "after"})
            assert await cache.get("after") == {"for": "after"}
            assert cache.error_counts["decryption"] == 0

    asyncio.run(work())
    print(f"{client}: {cancelled} cancelled, {reads} values read, 0 wrong")
    assert reads


class Load:
    """Tasks that read and write without a pause, and what became of their calls."""

    def __init__(self, cache: SecureAIResponseCache, tasks: int = 16) -> None:
        self.cache = cache
        self.longest = 0.0
        self.last_hit = 0.0
        self.wrong = 0
        self.calls = 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(tasks)]

    async def _run(self, number: int) -> None:
        while not self._stop:
            start = time.monotonic()
            key = f"k{number}"
            if self.calls % 5 == 0:
                await self.cache.set(key, key)
            else:
                value = await self.cache.get(key)
                if value is not None:
                    self.last_hit = time.monotonic()
                    self.wrong += value != key
            self.calls += 1
            self.longest = max(self.longest, time.monotonic() - start)
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def recovered(self, since: float) -> float:
        """Seconds from `since` until a value is read again."""
        while self.last_hit <= since:
            assert time.monotonic() - since < 10
            await asyncio.sleep(0.01)
        return self.last_hit - since


async def settled(load: Load) -> None:
    while not load.last_hit:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("client", CLIENTS)
def test_killed_and_restarted(start: Callable[..., Server], client: str, soak: bool) -> None:
    """kill -9 under load: calls go on answering fast, the breaker opens; back again, values are read within 5 s."""
    own = start()

    async def work() -> None:
        async with opened(own, redis_client=client, options={"timeout": 0.5}) as cache:
            load = Load(cache)
            await settled(load)
            for _ in range(5 if soak else 1):
                own.process.send_signal(signal.SIGKILL)
                own.process.wait()
                calls = load.calls
                await asyncio.sleep(2.0)
                assert cache._breaker.state != "closed"
                assert load.calls - calls > 100
                await asyncio.to_thread(own.start_again)
                back = await load.recovered(time.monotonic())
                assert back < 5
                print(f"{client}: recovered {back:.2f} s after the restart, longest call {load.longest:.2f} s")
            await load.stop()
            assert load.wrong == 0
            assert load.longest < 2.5
            assert cache.error_counts["authentication"] == cache.error_counts["tls"] == cache.error_counts["decryption"] == 0
            assert cache.security_monitor.get_failure_count() == 0

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_frozen(start: Callable[..., Server], client: str, soak: bool) -> None:
    """SIGSTOP under load: each call answers within its deadline, then at once; after SIGCONT values are read within 5 s."""
    own = start()

    async def work() -> None:
        async with opened(own, redis_client=client, redis_url=f"rediss://127.0.0.1:{own.port}/0?socket_timeout=0.5") as cache:
            load = Load(cache)
            await settled(load)
            os.kill(own.process.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(10 if soak else 2.0)
                calls = load.calls
                await asyncio.sleep(0.5)
                assert load.calls - calls > 20
                assert cache._breaker.state != "closed"
            finally:
                os.kill(own.process.pid, signal.SIGCONT)
            back = await load.recovered(time.monotonic())
            print(f"{client}: recovered {back:.2f} s after SIGCONT, longest call {load.longest:.2f} s")
            assert back < 5
            await load.stop()
            assert load.wrong == 0
            assert load.longest < 1.5

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_out_of_memory(start: Callable[..., Server], client: str) -> None:
    """A server that takes no more writes: they are dropped and counted, reads go on."""
    own = start(maxmemory_policy="noeviction")

    async def work() -> None:
        async with opened(own, redis_client=client) as cache:
            await cache.set("k", 1)
            with own.log_in() as operator:
                operator.ask(("CONFIG", "SET", "maxmemory", "1mb"))
            await cache.set("l", 1)
            assert cache.error_counts["server_unavailable"] == 1
            assert await cache.get("k") == 1
            assert cache._breaker.state == "closed"

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_rights_taken_away_while_running(start: Callable[..., Server], client: str) -> None:
    """An ACL that refuses a command: permission_denied, an event, and not "Redis is down"."""
    own = start()

    async def work() -> None:
        async with opened(own, redis_client=client) as cache:
            await cache.set("k", 1)
            with own.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "-get"))
            assert await cache.get("k") is None
            assert cache.error_counts["permission_denied"] == 1
            assert cache.security_monitor.security_events[-1].type == "permission_denied"
            assert cache._breaker.state == "closed"
            assert cache.performance_monitor.cache_operation_times[-1].additional_data["reason"] == "permission_denied"  # type: ignore[index]

    asyncio.run(work())


@pytest.mark.parametrize("how", ["refused", "cancelled"])
def test_a_probe_that_tells_nothing_keeps_nobody_out(start: Callable[..., Server], how: str) -> None:
    """The one call that may look whether Redis is back is refused by the ACL, or cancelled by its caller: others look within 5 s."""
    own = start()

    async def work() -> None:
        async with opened(own) as cache:
            await cache.set("k", 1)
            for _ in range(3):
                cache._breaker.failure()
            assert await cache.get("k") is None
            await asyncio.sleep(0.3)
            assert cache._breaker.state == "half-open"
            if how == "refused":
                with own.log_in() as operator:
                    operator.ask(("ACL", "SETUSER", "cache_service", "-get", "-mget"))
                    assert await cache.get("k") is None
                    operator.ask(("ACL", "SETUSER", "cache_service", "+get", "+mget"))
            else:
                os.kill(own.process.pid, signal.SIGSTOP)
                try:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(cache.get("k"), 0.1)
                finally:
                    os.kill(own.process.pid, signal.SIGCONT)
            began = time.monotonic()
            while await cache.get("k") is None:
                assert time.monotonic() - began < 5.0
                await asyncio.sleep(0.05)

    asyncio.run(work())


def test_many_callers_before_the_first_connection(server: Server) -> None:
    """A thousand calls at once on a cache that has not connected: one login, no failure."""

    async def work() -> None:
        cache = secure(server)
        await asyncio.gather(*(cache.set(f"k{i}", i) for i in range(1000)))
        assert await cache.get_many([f"k{i}" for i in range(1000)]) == {f"k{i}": i for i in range(1000)}
        assert sum(cache.error_counts.values()) == 0
        assert cache.security_monitor.count("auth_attempt", success=True) == 1
        await cache.close()

    asyncio.run(work())


def sessions(server: Server) -> int:
    """How many of the cache user's connections the server has."""
    with server.log_in() as operator:
        (text,) = operator.ask(("CLIENT", "LIST"))
    return str(text, "utf-8").count(" user=cache_service ")  # type: ignore[arg-type]


@pytest.mark.parametrize("client", CLIENTS)
def test_callers_cancelled_while_connecting(start: Callable[..., Server], client: str) -> None:
    """However many give up before the first login is over, there is one connection, and the next caller finds it; one login, no
    failure. With its event loop, and with `close`, an attempt ends and leaves none; who waited for it gets a miss."""
    server = start()

    async def impatient(cache: SecureAIResponseCache) -> None:
        """Each with a deadline that is shorter than the login."""
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await cache.get("k")

    async def work() -> None:
        cache = secure(server, redis_client=client)
        os.kill(server.process.pid, signal.SIGSTOP)
        await impatient(cache)
        os.kill(server.process.pid, signal.SIGCONT)
        end = time.monotonic() + 5
        while cache.redis is None and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert cache.redis is not None
        assert await cache.get("k") is None
        await asyncio.sleep(0.1)
        assert sessions(server) == 1
        assert cache.security_monitor.count("auth_attempt", success=True) == 1
        await cache.close()

        os.kill(server.process.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(cache.get("k"))
        await impatient(cache)
        await cache.close()
        assert await waiting is None
        assert cache.redis is None
        assert sum(cache.error_counts.values()) == 0
        await impatient(cache)

    asyncio.run(work())
    os.kill(server.process.pid, signal.SIGCONT)
    end = time.monotonic() + 5
    while (left := sessions(server)) and time.monotonic() < end:
        time.sleep(0.01)
    assert left == 0
