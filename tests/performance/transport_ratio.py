"""What the multiplexed transport costs against redis-py asyncio, plaintext and raw, in one run.

    python -m tests.performance.transport_ratio [--seconds 60] [--size 2048] [--concurrency 1 16 64] [--json FILE]

It starts its own servers on loopback. Every round runs every variant once, in shuffled order; a ratio is that of one round, and
minimum, median and maximum of the rounds are shown. 80 % GET, 20 % SET EX.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis

from redkeep.access.connection import new_client
from redkeep.access.event_loop import loop_factory
from redkeep.access.transport import Transport
from redkeep.crypto.envelope import seal, unseal
from redkeep.crypto.keyring import KeyRing
from redkeep.crypto.pki import Authority
from redkeep.target import build_target
from tests.redis.server import Files, Server, free_port, start_server

KEYS = [f"ai_cache:op:summarize|h:{number:064x}" for number in range(500)]
WORDS = ("the", "cache", "keeps", "what", "a", "model", "has", "said", "about", "a", "text", "so", "nobody", "pays", "twice")
BASE = "A0 redis-py, plaintext"


class Calls(NamedTuple):
    """One variant: how it reads and writes a value."""

    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str, bytes], Awaitable[Any]]
    close: Callable[[], Awaitable[None]]


class Measured(NamedTuple):
    """One round of one variant."""

    ops: float
    cpu: float
    p99: float


def value_of(size: int) -> bytes:
    """An English text with nine fields of metadata, as JSON of about `size` bytes."""
    meta = {f"field_{number}": random.choice(WORDS) for number in range(9)}
    text = ""
    while len(text) + 230 < size:
        text += random.choice(WORDS) + " "
    return json.dumps({"result": text, **meta}).encode()


def redis_py(client: Redis) -> Calls:
    """Stock redis-py."""
    return Calls(client.get, lambda key, value: client.set(key, value, ex=3600), client.aclose)


def ours(client: Transport, ring: KeyRing | None) -> Calls:
    """Our transport, with or without sealing."""
    execute = client.execute
    if ring is None:
        return Calls(
            lambda key: execute("GET", key), lambda key, value: execute("SET", key, value, "EX", 3600), client.close
        )

    async def get(key: str) -> bytes | None:
        found = await execute("GET", key)
        return None if found is None else unseal(found, key=key, ring=ring, namespace="bench")

    async def put(key: str, value: bytes) -> None:
        expires = int((time.time() + 3600) * 1000)
        await execute("SET", key, seal(value, key=key, ring=ring, namespace="bench", expires_at_ms=expires), "EX", 3600)

    return Calls(get, put, client.close)


async def measure(calls: Calls, *, operations: int, concurrency: int, value: bytes) -> Measured:
    """Run the mix and take the time."""
    left = operations
    times: list[float] = []
    clock = time.perf_counter

    async def worker(seed: int) -> None:
        nonlocal left
        choose = random.Random(seed)
        while left > 0:
            left -= 1
            key = KEYS[int(choose.random() * len(KEYS))]
            began = clock()
            if choose.random() < 0.8:
                await calls.get(key)
            else:
                await calls.set(key, value)
            times.append(clock() - began)

    cpu, wall = time.process_time(), clock()
    await asyncio.gather(*(worker(random.randrange(1 << 30)) for _ in range(concurrency)))
    cpu, wall = time.process_time() - cpu, clock() - wall
    times.sort()
    return Measured(len(times) / wall, cpu / len(times), times[int(len(times) * 0.99)])


def main() -> None:
    """Parse, start, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all rounds together")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), Authority.create("redkeep bench CA"))
        files.ca.write_bytes(files.authority.cert_pem)
        files.pair("server", ["localhost", "127.0.0.1"], use="server")
        files.pair("cache_service", [], use="client")
        plain = start_server(files, Path(folder) / "plain", tls_port="", port=str(free_port()), aclfile="")
        secure = start_server(files, Path(folder) / "secure")
        try:
            run(plain, secure, options)
        finally:
            plain.stop()
            secure.stop()


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loops to measure on."""
    found, fast = {"": asyncio.new_event_loop}, loop_factory()
    return found if fast is asyncio.new_event_loop else {**found, " uvloop": fast}


def run(plain: Server, secure: Server, options: argparse.Namespace) -> None:
    """All rounds."""
    target = build_target(environment="development", redis_url=f"redis://127.0.0.1:{plain.plain_port}/0")
    ring = KeyRing.from_strings(secure.target().keys)
    makers: dict[str, Callable[[], Calls]] = {
        BASE: lambda: redis_py(Redis(host="127.0.0.1", port=plain.plain_port)),
        "redis-py, TLS + ACL": lambda: redis_py(new_client(secure.target())),
        "ours, plaintext": lambda: ours(Transport(target), None),
        "ours, TLS + ACL": lambda: ours(Transport(secure.target()), None),
        "ours, TLS + ACL + AES-GCM": lambda: ours(Transport(secure.target()), ring),
    }
    runners = {name: asyncio.Runner(loop_factory=factory) for name, factory in loops().items()}
    variants = [(name, loop) for loop in runners for name in makers if not (loop and name.startswith("redis-py"))]
    value = value_of(options.size)
    report: dict[str, Any] = {"size": options.size, "python": sys.version.split()[0], "concurrency": {}}
    for concurrency in options.concurrency:
        calls = {variant: makers[variant[0]]() for variant in variants}
        results: dict[tuple[str, str], list[Measured]] = {variant: [] for variant in variants}
        operations = 600 if concurrency == 1 else 3000
        for variant in variants:  # warm up
            runners[variant[1]].run(fill(calls[variant], value))
            runners[variant[1]].run(measure(calls[variant], operations=500, concurrency=concurrency, value=value))
        end = time.monotonic() + options.seconds / len(options.concurrency)
        while time.monotonic() < end or len(results[variants[0]]) < 5:
            for variant in random.sample(variants, len(variants)):
                runner = runners[variant[1]]
                runner.run(fill(calls[variant], value))
                results[variant].append(
                    runner.run(measure(calls[variant], operations=operations, concurrency=concurrency, value=value))
                )
        for variant in variants:
            runners[variant[1]].run(calls[variant].close())
        report["concurrency"][str(concurrency)] = show(concurrency, variants, results)
    for runner in runners.values():
        runner.close()
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


async def fill(calls: Calls, value: bytes) -> None:
    """Every key holds what this variant writes."""
    for start in range(0, len(KEYS), 50):
        await asyncio.gather(*(calls.set(key, value) for key in KEYS[start : start + 50]))


def show(
    concurrency: int, variants: list[tuple[str, str]], results: dict[tuple[str, str], list[Measured]]
) -> dict[str, Any]:
    """Print one table; returns it."""
    base = results[(BASE, "")]
    rounds = len(base)
    print(f"\n{concurrency} concurrent, {rounds} rounds: A0 {statistics.median(m.ops for m in base):.0f} ops/s,", end=" ")
    print(f"{statistics.median(m.cpu for m in base) * 1e6:.0f} us CPU, p99 {statistics.median(m.p99 for m in base) * 1e3:.2f} ms")
    print(f"{'variant':36}{'ops/s: min  median  max':>26}{'CPU':>20}{'p99':>20}")
    table: dict[str, Any] = {}
    for variant in variants:
        line = {}
        for field in Measured._fields:
            ratios = [getattr(m, field) / getattr(b, field) for m, b in zip(results[variant], base, strict=True)]
            line[field] = (min(ratios), statistics.median(ratios), max(ratios))
        table["".join(variant)] = line
        print(f"{''.join(variant):36}" + "".join(f"{low:10.2f}{middle:6.2f}{high:6.2f}" for low, middle, high in line.values()))
    return table


if __name__ == "__main__":
    main()
