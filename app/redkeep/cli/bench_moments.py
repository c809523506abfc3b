"""What the benchmark measures once: how long a connection takes to be ready, and how much memory 64 callers take."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from redkeep.cli.bench_servers import Kind, Server
from redkeep.cli.bench_variants import Calls, raw_redis_py, raw_transport, stock_client, value_of
from redkeep.cli.table import render

CALLERS: Final = 64
CONNECTS: Final = 30
_OPERATIONS: Final = 5000
_ALONE_SECONDS: Final = 120.0

Three = tuple[float, float, float]
OURS, STOCK = "our transport, mutual TLS, ACL", "redis-py, TLS, password"


def connect_times(running: dict[Kind, Server]) -> tuple[dict[str, Three], dict[str, float]]:
    """Milliseconds from nothing to the first PONG, minimum, median and maximum of 30, both in turns; and the median of this
    thread's CPU in them."""
    from redkeep.access.tls import SharedContext
    from redkeep.access.transport import Transport
    from redkeep.target import build_target

    target = build_target(**running["full"].settings)
    contexts = SharedContext(target)

    async def ours(ready: Callable[[], None]) -> None:
        async with Transport(target, contexts=contexts) as client:
            await client.execute("PING")
            ready()

    async def stock(ready: Callable[[], None]) -> None:
        async with stock_client(running["tls"]) as client:
            await client.ping()
            ready()

    def clocks() -> tuple[float, float]:
        return time.perf_counter() * 1e3, time.thread_time() * 1e3

    async def main() -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {OURS: [], STOCK: []}
        ways: list[tuple[str, Callable[[Callable[[], None]], Awaitable[None]]]] = [(OURS, ours), (STOCK, stock)]
        for _ in range(CONNECTS):
            for name, connect in random.sample(ways, 2):
                ready: list[tuple[float, float]] = []
                began = clocks()
                await connect(lambda ready=ready: ready.append(clocks()))  # type: ignore[misc]  # a default binds
                found[name].append((ready[0][0] - began[0], ready[0][1] - began[1]))
        return found

    times: dict[str, Three] = {}
    cpu: dict[str, float] = {}
    for name, each in asyncio.run(main()).items():
        walls = [wall for wall, _ in each]
        times[name] = (min(walls), statistics.median(walls), max(walls))
        cpu[name] = statistics.median(used for _, used in each)
    return times, cpu


def memory_at_work(running: dict[Kind, Server]) -> dict[str, float]:
    """Megabytes by which a process with one idle connection grew once 64 callers had worked, each kind in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name, server in ((OURS, running["full"]), (STOCK, running["tls"])):
        receiving, sending = context.Pipe(duplex=False)
        child = context.Process(target=_grow, args=(name, server, sending))
        child.start()
        sending.close()
        try:
            found[name] = float(receiving.recv()) if receiving.poll(_ALONE_SECONDS) else float("nan")
        finally:
            child.kill()
            child.join()
    return found


def lines(connects: dict[str, Three], cpu: dict[str, float], memory: dict[str, float]) -> str:
    """All three as a table."""
    rows = [
        [name, " ".join(f"{value:.1f}" for value in connects[name]), f"{cpu[name]:.1f}", f"{memory[name]:+.1f}"] for name in connects
    ]
    return render(["once", "connect ms: minimum median maximum", "client CPU ms", f"MB at {CALLERS} callers"], rows)


def _grow(name: str, server: Server, answer: Any) -> None:
    answer.send(asyncio.run(_grown(name, server)))


async def _grown(name: str, server: Server) -> float:
    value = value_of(2048)
    calls = (raw_transport if name == OURS else raw_redis_py)(server, value)
    names = [f"ai_cache:memory:{number:032x}" for number in range(500)]
    await calls.get(names[0])
    before = _resident()
    await asyncio.gather(*(_work(calls, names[number:] + names[:number]) for number in range(CALLERS)))
    grown = _resident() - before
    await calls.close()
    return grown


async def _work(calls: Calls, names: Sequence[str]) -> None:
    for number in range(_OPERATIONS // CALLERS):
        await (calls.get if number % 5 else calls.set)(names[number])


def _resident() -> float:
    """Megabytes that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
