"""`redkeep migrate-data` over many small entries while an application goes on: time, its CPU, and what it does to the latency.

    python -m tests.soak.migrate_data --entries 1000000

Starts a redis-server of its own with TLS on loopback, fills it as the old class does, and measures the application's reads and
writes in turns: without the migration and with it, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.pki import Authority
from tests.redis.caches import settings_of
from tests.redis.old_application import Request, requests, value
from tests.redis.server import Files, Server, start_server

OPERATIONS_A_SECOND = 500
TURN_SECONDS = 4.0
"""How long a turn is. In those without the migration it is stopped by SIGSTOP, for less than the deadline of its connection."""

BESIDE_TURNS = 4
"""Turns beside the migration for one without."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=None, help="entries a second (default: the command's own)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), Authority.create("redkeep test CA"))
        files.ca.write_bytes(files.authority.cert_pem)
        files.pair("server", ["localhost", "127.0.0.1"], use="server")
        files.pair("cache_service", [], use="client")
        server = start_server(files, Path(folder) / "redis")
        try:
            fill(server, arguments.entries)
            asyncio.run(measure(server, Path(folder), arguments.entries, arguments.rate))
        finally:
            server.stop()


def fill(server: Server, count: int) -> None:
    """Small entries at readable names, an hour and more to live."""
    start = time.monotonic()
    with server.log_in() as operator:
        for first in range(0, count, 1000):
            operator.ask(
                *(
                    ("SET", f"ai_cache:op:summarize|txt:text number {number}", value({"answer": f"answer {number}"}, number), "PX", "7200000")
                    for number in range(first, min(first + 1000, count))
                )
            )
    print(f"filled with {count:,} entries in {time.monotonic() - start:.0f} s", flush=True)


async def measure(server: Server, folder: Path, count: int, rate: float | None) -> None:
    """Run the command beside an application and print the figures."""
    env_file = folder / "cache.env"
    env_file.write_text("".join(f"{name.upper()}={value}\n" for name, value in server.settings.items()))
    line = [sys.executable, "-m", "redkeep.cli", "migrate-data", "--env-file", str(env_file), "--state", str(folder / "state")]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "REDIS_JANITOR_PASSWORD": server.passwords["cache_janitor"]}
    live = list(requests(300))
    times: dict[bool, list[float]] = {False: [], True: []}
    wrong = 0
    settings = settings_of(server, redis_read_legacy=True)
    async with SecureAIResponseCache.from_settings(settings, memory_cache_size=0) as cache:
        for each in live:
            await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)
        logging.disable(logging.WARNING)
        start = time.monotonic()
        running = subprocess.Popen([*line, *(["--rate", str(rate)] if rate is not None else [])], env=variables)
        await asyncio.sleep(3)
        stopped_for = 0.0
        while running.poll() is None:
            for _ in range(BESIDE_TURNS):
                wrong += await turn(cache, live, times[True], running)
            if running.poll() is None:
                running.send_signal(signal.SIGSTOP)
                wrong += await turn(cache, live, times[False], None)
                running.send_signal(signal.SIGCONT)
                stopped_for += TURN_SECONDS
        seconds = time.monotonic() - start - stopped_for
        failed = sum(cache.error_counts.values())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    speed, processor = count / seconds, used.ru_utime + used.ru_stime
    print(f"{count:,} entries in {seconds:.0f} s ({speed:,.0f} a second), {processor:.0f} s of CPU, exit {running.returncode}")
    for beside, name in ((False, "without"), (True, "beside")):
        found = sorted(times[beside])
        p50, p99 = statistics.median(found), found[int(len(found) * 0.99)]
        print(f"{name:>8} the migration: {len(found):,} operations, p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
    ratio = p99_of(times[True]) / p99_of(times[False])
    print(f"p99 with the migration / without: {ratio:.2f}; failed {failed}, wrong or missed {wrong}")


def p99_of(times: list[float]) -> float:
    """The 99th percentile."""
    return sorted(times)[int(len(times) * 0.99)]


async def turn(cache: SecureAIResponseCache, live: list[Request], times: list[float], running: subprocess.Popen[bytes] | None) -> int:
    """Operations at an even pace for a turn, or until the command is over; returns how many gave what they should not."""
    wrong, end, due = 0, time.monotonic() + TURN_SECONDS, time.monotonic()
    number = 0
    while time.monotonic() < end and (running is None or running.poll() is None):
        each = live[number % len(live)]
        number += 1
        begun = time.perf_counter()
        if number % 5:
            found = await cache.get_cached_response(*each[:4])
            times.append(time.perf_counter() - begun)
            wrong += found is None or found["answer"] != each.answer["answer"]
        else:
            await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)
            times.append(time.perf_counter() - begun)
        due = max(due + 1 / OPERATIONS_A_SECOND, time.monotonic() - 0.01)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return wrong


if __name__ == "__main__":
    main()
