"""One computation for all who wait, in a process and across processes; early refresh, negative results, `@cached`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from redkeep.cache.decorator import cached
from tests.redis.caches import CLIENTS, empty, opened, secure, settings_of
from tests.redis.server import Server


class Counter:
    """A computation that counts its runs."""

    def __init__(self, result: Any = "value", seconds: float = 0.05) -> None:
        self.runs = 0
        self.result = result
        self.seconds = seconds

    async def __call__(self) -> Any:
        self.runs += 1
        await asyncio.sleep(self.seconds)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize("client", CLIENTS)
def test_one_computation_in_a_process(server: Server, client: str) -> None:
    """A hundred callers, one run; and none for the next hundred."""

    async def work() -> None:
        async with opened(server, redis_client=client) as cache:
            compute = Counter()
            for _ in range(2):
                assert await asyncio.gather(*(cache.get_or_set("k", compute) for _ in range(100))) == ["value"] * 100
            assert compute.runs == 1
            answer = Counter({"summary": "s"})
            found = await asyncio.gather(*(cache.get_or_compute_response("t", "qa", {}, answer) for _ in range(50)))
            assert answer.runs == 1
            assert {each["summary"] for each in found} == {"s"}
            found[0]["summary"] = "mine"
            again = await cache.get_or_compute_response("t", "qa", {}, answer)
            assert (again["summary"], again["cache_hit"], found[1]["summary"], found[1]["cache_hit"]) == ("s", True, "s", False)

    asyncio.run(work())


def test_one_computation_across_caches(server: Server) -> None:
    """Four caches as four processes: the lock lets one compute, the others wait for its value; the lock is gone afterwards."""

    async def work() -> None:
        empty(server)
        caches = [secure(server) for _ in range(4)]
        compute = Counter(seconds=0.3)
        assert set(await asyncio.gather(*(cache.get_or_set("k", compute) for cache in caches for _ in range(10)))) == {"value"}
        assert compute.runs == 1
        with server.log_in() as operator:
            assert operator.ask(("KEYS", "ai_cache:lock:*")) == [[]]
        for cache in caches:
            await cache.close()

    asyncio.run(work())


@pytest.mark.parametrize("take", [1, 2], ids=["first", "after-waiting"])
def test_a_value_stored_between_the_miss_and_the_lock(server: Server, take: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process stored it and gave the lock back just before ours was taken: it is read, not computed again, and the second
    look counts as a hit alone."""

    async def work() -> None:
        empty(server)
        faster, slower = secure(server), secure(server)
        go, computing, before, stored = (asyncio.Event() for _ in range(4))
        ask, takes, runs = slower._execute, 0, 0

        async def held(*command: Any) -> Any:
            nonlocal takes
            if command[0] == "SET":
                takes += 1
                if takes == take:
                    before.set()
                    await stored.wait()
            return await ask(*command)

        async def compute() -> str:
            nonlocal runs
            runs += 1
            computing.set()
            await go.wait()
            return "value"

        monkeypatch.setattr(slower._flights, "_ask", held)
        first = asyncio.create_task(faster.get_or_set("k", compute))
        await computing.wait()
        second = asyncio.create_task(slower.get_or_set("k", compute))
        await before.wait()
        go.set()
        assert await first == "value"
        with server.log_in() as operator:
            assert operator.ask(("KEYS", "ai_cache:lock:*")) == [[]]
            stored.set()
            assert await second == "value"
            assert operator.ask(("KEYS", "ai_cache:lock:*")) == [[]]
        assert runs == 1
        assert (slower.performance_monitor.cache_hits, slower.performance_monitor.cache_misses) == (1, take)
        assert faster.performance_monitor.cache_misses == 1
        await faster.close()
        await slower.close()

    asyncio.run(work())


SCRIPT = """
import asyncio, pathlib, sys, time
from redkeep import SecureAIResponseCache, Settings
async def compute():
    with open(sys.argv[2], "a") as log: log.write("x")
    await asyncio.sleep(0.3)
    return 7
async def main():
    async with SecureAIResponseCache.from_settings(Settings.load(pathlib.Path(sys.argv[1]))) as cache:
        assert cache.redis is not None
        pathlib.Path(sys.argv[3]).touch()
        while not pathlib.Path(sys.argv[4]).exists(): await asyncio.sleep(0.005)
        print(await cache.get_or_set("across", compute))
asyncio.run(main())
"""


def test_one_computation_across_processes(server: Server, tmp_path: Path) -> None:
    """Real processes that start together: one computes."""
    empty(server)
    env = tmp_path / "cache.env"
    env.write_text("".join(f"{name.upper()}={value}\n" for name, value in server.settings.items()))

    async def work() -> list[bytes]:
        ready = [tmp_path / f"ready{number}" for number in range(3)]
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", SCRIPT, str(env), str(tmp_path / "log"), str(mark), str(tmp_path / "go"), stdout=asyncio.subprocess.PIPE
            )
            for mark in ready
        ]
        end = time.monotonic() + 20
        while not all(mark.exists() for mark in ready) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        (tmp_path / "go").touch()
        return [(await process.communicate())[0] for process in processes]

    assert asyncio.run(work()) == [b"7\n"] * 3
    assert (tmp_path / "log").read_text() == "x"


def test_a_dead_owner_of_the_lock(server: Server) -> None:
    """Whoever took the lock died: the others compute after `lock_seconds`, not later."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.get("k")
            await cache._execute("SET", cache._lock_name(cache._entry_name("k")), "dead", "PX", 60_000)
            compute = Counter()
            start = time.monotonic()
            assert await cache.get_or_set("k", compute, lock_seconds=0.5) == "value"
            assert 0.4 < time.monotonic() - start < 10

    asyncio.run(work())


def test_failures_and_cancelled_callers(server: Server) -> None:
    """An exception reaches everyone who waited and is not kept; a caller that is cancelled stops nobody else's computation."""

    async def work() -> None:
        async with opened(server) as cache:
            broken = Counter(ValueError("no answer"))
            found = await asyncio.gather(*(cache.get_or_set("k", broken) for _ in range(5)), return_exceptions=True)
            assert [type(each) for each in found] == [ValueError] * 5
            assert broken.runs == 1
            compute = Counter()
            first = asyncio.create_task(cache.get_or_set("k", compute))
            await asyncio.sleep(0.02)
            second = asyncio.create_task(cache.get_or_set("k", compute))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == "value"
            assert compute.runs == 1
            assert len(cache._flights) == 0

    asyncio.run(work())


def test_negative_results(server: Server) -> None:
    """None is kept for its own time, and only if wanted."""

    async def work() -> None:
        async with opened(server) as cache:
            nothing = Counter(None, 0)
            assert [await cache.get_or_set("k", nothing, negative_ttl=1) for _ in range(3)] == [None] * 3
            assert nothing.runs == 1
            await asyncio.sleep(1.05)
            await cache.get_or_set("k", nothing, negative_ttl=None)
            await cache.get_or_set("k", nothing, negative_ttl=None)
            assert nothing.runs == 3

    asyncio.run(work())


def test_early_refresh(server: Server) -> None:
    """Near its end a hit is served at once, and one computation begins in the background."""

    async def work() -> None:
        async with opened(server) as cache:
            go_on = asyncio.Event()
            results = ["old", "new"]

            async def compute() -> str:
                await go_on.wait()
                return results.pop(0)

            go_on.set()
            await cache.get_or_set("k", compute, 30, early=0.99)
            go_on.clear()
            await asyncio.sleep(0.5)
            assert await asyncio.gather(*(cache.get_or_set("k", compute, 30, early=0.99) for _ in range(10))) == ["old"] * 10
            go_on.set()
            while await cache.get("k") == "old":
                await asyncio.sleep(0.01)
            assert await cache.get("k") == "new"
            assert results == []
            with pytest.raises(ValueError, match="early"):
                await cache.get_or_set("k", compute, early=1.0)

    asyncio.run(work())


def test_close_ends_refreshes(server: Server) -> None:
    """A refresh under way is cancelled, its lock released and nothing of it left; what a caller awaits is finished."""

    async def work() -> None:
        async with opened(server) as cache:
            cancelled = asyncio.Event()

            async def endless() -> str:
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled.set()
                return "never"

            await cache.get_or_set("k", Counter(), 30)
            await asyncio.sleep(0.1)  # into the last 29.9 of its 30 seconds
            assert await cache.get_or_set("k", endless, 30, early=0.9975) == "value"
            async with asyncio.timeout(10):
                while not stored_locks(server):
                    await asyncio.sleep(0.01)
            awaited = asyncio.create_task(cache.get_or_set("other", Counter()))
            await asyncio.sleep(0)
            await cache.close()
            assert cancelled.is_set()
            assert await awaited == "value"
            assert len(cache._flights) == 0
            assert not stored_locks(server)
            assert {task for task in asyncio.all_tasks() if "Flights" in repr(task)} == set()

    asyncio.run(work())


def stored_locks(server: Server) -> list[object]:
    with server.log_in() as operator:
        (names,) = operator.ask(("KEYS", "ai_cache:lock:*"))
    return names  # type: ignore[return-value]


def test_without_redis(server: Server) -> None:
    """Every caller gets a value; in a process still one computation."""

    async def work() -> None:
        cache = secure(server, redis_url="rediss://127.0.0.1:1/0")
        compute = Counter()
        assert await asyncio.gather(*(cache.get_or_set("k", compute) for _ in range(20))) == ["value"] * 20
        assert compute.runs == 1
        await cache.close()

    asyncio.run(work())


def test_decorator(server: Server) -> None:
    """Arguments that mean the same are one entry; others are not; what cannot be a key is refused by name."""
    runs: list[tuple[int, int]] = []

    async def work() -> None:
        async with opened(server) as cache:

            @cached(cache, 60)
            async def add(a: int, b: int = 2) -> int:
                """Adds."""
                runs.append((a, b))
                return a + b

            assert (await add(1), await add(1, 2), await add(a=1, b=2), await add(b=2, a=1)) == (3, 3, 3, 3)
            assert await add(1, 3) == 4
            assert runs == [(1, 2), (1, 3)]
            assert (add.__name__, add.__doc__) == ("add", "Adds.")
            with pytest.raises(TypeError, match=r"arguments of .*add"):
                await add({1})  # type: ignore[arg-type]

            @cached(cache, key=lambda user: f"user:{user}")
            async def named(user: object) -> str:
                return "x"

            assert await named({1}) == "x"
            assert await cache.get("ai_cache:call:" + f"{named.__module__}.{named.__qualname__}:user:{{1}}") == "x"
            with pytest.raises(TypeError, match="not an async function"):
                cached(cache)(lambda: 1)  # type: ignore[arg-type, return-value]

    asyncio.run(work())
    assert settings_of(server).redis_encryption_key is not None
