"""What security monitoring costs: client CPU of a cache at work, and CPU of a server that nobody uses.

python -m tests.performance.monitoring_cost [--rounds 30] [--seconds 6]

Each round runs the same operations twice, in random order and in this one process: with a collector that counts no sealing
and nothing else, and with everything on, a MonitoringService beside the cache that looks every two seconds and finds out the
posture once a run (in service once in thirty seconds, a fifth as often). The PRD's performance monitor is on in both. CPU is the
process's, all threads; a ratio is that of one round, and many short rounds say more than a few long ones, for what one costs by
itself varies by a tenth. The server's CPU is what the kernel counted for it while only the watcher spoke to it,
beside what it takes when nobody does.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from redkeep import SecureAIResponseCache, SecurityMetricsCollector
from redkeep.crypto.pki import Authority
from redkeep.monitoring.service import MonitoringService
from tests.redis.caches import secure
from tests.redis.server import Files, Server, start_server
from tests.redis.watched import env_file

WAYS: Final = ("off", "on")
_TEXTS: Final = [f"{number} " + "the quick brown fox jumps over the lazy dog " * 40 for number in range(200)]
_CONCURRENCY: Final = 16


class SilentCollector(SecurityMetricsCollector):
    """Notes nothing."""

    def record_encryption_operation(self, operation: str, success: bool) -> None: ...


class Cost(NamedTuple):
    """Microseconds of client CPU an operation, and operations a second."""

    cpu: float
    rate: float


async def run(server: Server, path: Path, way: str, *, seconds: float) -> Cost:
    """One run."""
    service = MonitoringService(env_file=path, interval=seconds) if way == "on" else None
    async with secure(server) as cache:
        assert cache.redis is not None, cache.last_error
        if service is None:
            cache.security_metrics = SilentCollector()
        else:
            service.include(cache.security_monitor, cache.security_metrics)
            await service.probe()  # what is imported once is not what is measured
            await service.start()
        await _work(cache, until=time.monotonic() + 0.5)
        began, cpu = time.monotonic(), time.process_time()
        done = await _work(cache, until=began + seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
        if service:
            await service.close()
    return Cost(cpu / done * 1e6, done / wall)


async def _work(cache: SecureAIResponseCache, *, until: float) -> int:
    async def worker(seed: int) -> int:
        choose, done = random.Random(seed), 0
        while time.monotonic() < until:
            text = choose.choice(_TEXTS)
            if await cache.get_cached_response(text, "summarize", {}) is None or choose.random() < 0.2:
                await cache.cache_response(text, "summarize", {}, {"summary": text[:400]})
            done += 1
        return done

    return sum(await asyncio.gather(*(worker(seed) for seed in range(_CONCURRENCY))))


def server_share(server: Server, path: Path, *, seconds: float) -> tuple[float, float]:
    """Shares of one core that the server takes: alone, and with a watcher."""
    before = _cpu_seconds(server)
    time.sleep(seconds)
    alone = (_cpu_seconds(server) - before) / seconds

    async def watch() -> float:
        service = MonitoringService(env_file=path)
        await service.look()  # the login is not what is measured
        service.probe = _nothing  # type: ignore[method-assign]
        await service.start()
        began, cpu = time.monotonic(), _cpu_seconds(server)
        await asyncio.sleep(seconds)
        share = (_cpu_seconds(server) - cpu) / (time.monotonic() - began)
        await service.close()
        return share

    return alone, asyncio.run(watch())


async def _nothing() -> None: ...


def _cpu_seconds(server: Server) -> float:
    """Time on a CPU, all threads; nanoseconds stand in the first field of schedstat (Linux, sched-stats.rst)."""
    threads = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def measure(server: Server, path: Path, *, rounds: int, seconds: float) -> list[dict[str, Cost]]:
    """Both ways once a round, in random order."""
    found = []
    for _ in range(rounds):
        ways = random.sample(WAYS, len(WAYS))
        found.append({way: asyncio.run(run(server, path, way, seconds=seconds)) for way in ways})
    return found


def started(folder: Path) -> tuple[Server, Path]:
    """A hardened server and the env file of its cache, with the monitor's password."""
    files = Files(folder, Authority.create("redkeep bench CA"))
    files.ca.write_bytes(files.authority.cert_pem)
    files.pair("server", ["localhost", "127.0.0.1"], use="server")
    files.pair("cache_service", [], use="client")
    server = start_server(files, folder / "redis")
    return server, env_file(server, folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=6, help="of each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        server, path = started(Path(name))
        try:
            found = measure(server, path, rounds=options.rounds, seconds=options.seconds)
            alone, watched = server_share(server, path, seconds=options.seconds)
        finally:
            server.stop()
    for way in WAYS:
        costs = [each[way] for each in found]
        cpu, rate = statistics.median(each.cpu for each in costs), statistics.median(each.rate for each in costs)
        print(f"{way:4} {cpu:7.1f} us CPU an operation, {rate:7.0f} a second")
    ratios = sorted(each["on"].cpu / each["off"].cpu for each in found)
    print(f"on to off: {statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})")
    print(f"server, nobody at work: {alone:.3%} of a core alone, {watched:.3%} watched")


if __name__ == "__main__":
    main()
