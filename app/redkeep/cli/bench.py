"""`redkeep bench`: what security costs and what the transport gains, measured on this machine with servers of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from redkeep.cli.bench_report import Cell, Measured
    from redkeep.cli.bench_servers import Kind, Server
    from redkeep.cli.bench_variants import Calls, Variant

KEYS: Final = 500
READS: Final = 0.8
_FILL: Final = 50
_TOGETHER: Final = 4
"""Callers with batches: each of them asks for as much as fifty."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "bench",
        help="measure the cache on this machine, beside redis-py and the PRD's design",
        description=(
            "Measure on servers started here on loopback: 80 % GET, 20 % SET. Every round runs every variant once, in shuffled "
            "order; a ratio is that of one round. Figures of shared machines vary: look at the ratios."
        ),
    )
    parser.add_argument("--quick", action="store_true", help="2 KB, 16 concurrent, five rounds: half a minute")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each size and concurrency (default: 9)")
    parser.add_argument("--size", type=float, nargs="+", metavar="KB", help="sizes of values (default: 0.5 2 10)")
    parser.add_argument("--concurrency", type=int, nargs="+", metavar="N", help="concurrent callers (default: 1 16 64)")
    parser.add_argument("--operations", type=int, default=1500, metavar="N", help="operations per round and variant")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart to FILE")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, also: Sequence[Variant] = ()) -> int:
    """Measure, print, write the files; `also` are variants of the caller's own, to be measured with ours.

    Raises ConfigurationError without a server's binary, with numbers that make no sense, or for a file that cannot be written.
    """
    from redkeep.access.event_loop import loop_factory
    from redkeep.cli.bench_moments import connect_times, lines, memory_at_work
    from redkeep.cli.bench_report import document, picture, table
    from redkeep.cli.bench_servers import servers
    from redkeep.cli.bench_variants import BASE, BATCH, FULL, OLD, ON_REDIS_PY, OWN_PLAIN, PRD, batched, variants
    from redkeep.errors import ConfigurationError

    sizes = [int(size * 1024) for size in arguments.size or ([2] if arguments.quick else [0.5, 2, 10])]
    callers = arguments.concurrency or ([16] if arguments.quick else [1, 16, 64])
    rounds = arguments.rounds or (5 if arguments.quick else 9)
    if min(*sizes, 256) < 256 or min(*callers, rounds, arguments.operations) < 1 or max(callers) > 1000:
        raise ConfigurationError("sizes begin at 0.25 KB, numbers at 1, and 1000 concurrent callers are the most")
    _check_writable({"--json": arguments.json, "--svg": arguments.svg})
    loops = asyncio.new_event_loop, loop_factory()
    cells: list[Cell] = []
    with _alone(), tempfile.TemporaryDirectory(prefix="redkeep-bench-") as folder, servers(Path(folder)) as running:
        chosen = [*variants(uvloop=loops[1] is not loops[0]), *also]
        pairs = [(FULL, OWN_PLAIN), (FULL, PRD), (ON_REDIS_PY, OLD), *((FULL, peer.name) for peer in also)]
        about: dict[str, Any] = {
            "python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "keys": KEYS, "reads": READS,
        }  # fmt: skip
        for size in sizes:
            for concurrency in callers:
                cell = _cell(chosen, running, loops, size, concurrency, rounds, arguments.operations)
                cells.append(cell)
                print(table(cell, BASE, pairs), end="\n\n", flush=True)
        if not arguments.quick:
            together = [batched(variant) for variant in chosen if variant.batches]
            cell = _cell(together, running, loops, sizes[0] if len(sizes) == 1 else 2048, _TOGETHER, rounds, arguments.operations, BATCH)
            cells.append(cell)
            print(table(cell, BASE, [(FULL, OWN_PLAIN)]), end="\n\n", flush=True)
            connects, used = connect_times(running)
            about |= {"connect_ms": connects, "connect_cpu_ms": used, "grown_mb": memory_at_work(running)}
            print(lines(connects, used, about["grown_mb"]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(document(cells, BASE, about), indent=1) + "\n")
    if arguments.svg:
        wanted = [cell for cell in cells if (cell.size, cell.concurrency) == (2048, 16)]
        arguments.svg.write_text(picture((wanted or cells)[0], BASE))
    return 0


def _check_writable(files: Mapping[str, Path | None]) -> None:
    """Find out now, and not after minutes of measuring; what is there stays as it is."""
    from redkeep.errors import ConfigurationError

    for option, path in files.items():
        try:
            if path is not None:
                new = not path.exists()
                path.open("a").close()
                if new:
                    path.unlink()
        except OSError as error:
            raise ConfigurationError(f"{option} {path} cannot be written: {error.strerror}") from None


@contextmanager
def _alone() -> Iterator[None]:
    """Without the settings of a cache in use, and without warnings of slow calls: they queue behind 63 others."""
    kept = dict(os.environ)
    logger = logging.getLogger("redkeep")
    level = logger.level
    for name in kept:
        if name.startswith("REDIS_") or name == "ENVIRONMENT":
            del os.environ[name]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        os.environ.update(kept)
        logger.setLevel(level)


def _cell(
    chosen: Sequence[Variant], running: dict[Kind, Server], loops: Sequence[Any], size: int, concurrency: int, rounds: int,
    operations: int, batch: int = 1,
) -> Cell:  # fmt: skip
    from redkeep.cli.bench_report import Cell
    from redkeep.cli.bench_variants import value_of

    value = value_of(size)
    operations = max(1, operations // (3 if concurrency == 1 and batch == 1 else batch // 4 or 1))
    results: dict[str, list[Measured]] = {variant.name: [] for variant in chosen}
    memory = {}
    with asyncio.Runner(loop_factory=loops[0]) as plain, asyncio.Runner(loop_factory=loops[1]) as fast:
        runners = {variant.name: fast if variant.uvloop else plain for variant in chosen}
        calls = {variant.name: variant.make(running[variant.server], value) for variant in chosen}
        names = {
            variant.name: [f"ai_cache:bench:{place}:{size}:{batch}:{number:032x}" for number in range(KEYS)]
            for place, variant in enumerate(chosen)
        }
        for variant in chosen:
            before = _used(running[variant.server])
            runners[variant.name].run(_fill(calls[variant.name], names[variant.name]))
            memory[variant.name] = max(0, _used(running[variant.server]) - before) / KEYS
        for number in range(rounds):
            _progress(f"{Cell(size, concurrency, {}, {}, batch).title}: round {number + 1} of {rounds}", last=number + 1 == rounds)
            for variant in random.sample(chosen, len(chosen)):
                work = _measure(calls[variant.name], names[variant.name], operations, concurrency)
                found = runners[variant.name].run(work)
                results[variant.name].append(found._replace(ops=found.ops * batch, cpu=found.cpu / batch))
        for variant in chosen:
            runners[variant.name].run(_ended(calls[variant.name]))
    for server in running.values():
        _ask(server, ("FLUSHALL",))
    return Cell(size, concurrency, results, memory, batch)


async def _fill(calls: Calls, names: Sequence[str]) -> None:
    await calls.set(names[0])
    for first in range(0, len(names), _FILL):
        await asyncio.gather(*(calls.set(name) for name in names[first : first + _FILL]))
    if await calls.get(names[-1]) is None:
        from redkeep.errors import ConfigurationError

        raise ConfigurationError("a variant of the benchmark does not find what it wrote; is the machine out of memory?")


async def _ended(calls: Calls) -> None:
    await calls.close()


async def _measure(calls: Calls, names: Sequence[str], operations: int, concurrency: int) -> Measured:
    from redkeep.cli.bench_report import Measured

    clock = time.perf_counter
    get, put = calls.get, calls.set
    times: list[float] = []
    left = operations

    async def worker(choose: Callable[[], float]) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            name = names[int(choose() * KEYS)]
            call: Callable[[str], Awaitable[Any]] = get if choose() < READS else put
            began = clock()
            await call(name)
            times.append(clock() - began)

    sources = [random.Random(number).random for number in range(concurrency)]  # noqa: S311  # nosec B311 - which key comes next
    cpu, wall = time.process_time(), clock()
    await asyncio.gather(*map(worker, sources))
    cpu, wall = time.process_time() - cpu, clock() - wall
    times.sort()
    return Measured(len(times) / wall, cpu / len(times), times[int(len(times) * 0.99)])


def _used(server: Server) -> int:
    """The server's memory in bytes, without what it says its clients take; connections have other costs that stay in it."""
    text = _ask(server, ("INFO", "memory"))
    used, clients = (int(text.partition(field)[2].split()[0]) for field in (b"\nused_memory:", b"\nmem_clients_normal:"))
    return used - clients


def _ask(server: Server, command: tuple[str, ...]) -> bytes:
    from redkeep.access.tls import client_context
    from redkeep.cli.bench_servers import HOST
    from redkeep.monitoring.wire import Wire
    from redkeep.target import build_target

    context = None
    if server.kind in ("tls", "full"):
        context = client_context(build_target(
            redis_url=f"rediss://{HOST}:{server.port}/0", redis_tls_ca_file=server.ca,
            redis_tls_cert_file=server.folder / "client.crt", redis_tls_key_file=server.folder / "client.key",
        ))  # fmt: skip
    with Wire(HOST, server.port, context=context, timeout=5.0) as wire:
        if server.users:
            wire.ask(("AUTH", "operator", server.users["operator"]))
        elif server.password:
            wire.ask(("AUTH", "default", server.password))
        (reply,) = wire.ask(command)
    return reply if isinstance(reply, bytes) else str(reply).encode()


def _progress(text: str, *, last: bool) -> None:
    if sys.stderr.isatty():
        print(f"\r{text} ", end="\r" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(text, file=sys.stderr, flush=True)
