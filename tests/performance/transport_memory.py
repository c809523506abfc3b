"""Resident memory at 64 concurrent calls: our transport and redis-py, both over TLS, each in a process of its own.

    python -m tests.performance.transport_memory

performance.md asks for no more than 8 MB on top of the connected, idle process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

from redkeep.access.connection import new_client
from redkeep.access.transport import Transport
from redkeep.crypto.pki import Authority
from redkeep.target import Target
from tests.performance.transport_ratio import fill, measure, ours, redis_py, value_of
from tests.redis.server import Files, start_server

CALLERS = 64


def resident() -> float:
    """Megabytes this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def child(which: str, target: Target, answers: Any) -> None:
    """Connect, look, work, look again."""

    async def work() -> float:
        calls = ours(Transport(target), None) if which == "ours" else redis_py(new_client(target))
        await calls.get("ai_cache:none")
        before = resident()
        await fill(calls, value_of(2048))
        await measure(calls, operations=5000, concurrency=CALLERS, value=value_of(2048))
        grown = resident() - before
        await calls.close()
        return grown

    answers.put(asyncio.run(work()))


def main() -> None:
    """Start a server and one process a client."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), Authority.create("redkeep bench CA"))
        files.ca.write_bytes(files.authority.cert_pem)
        files.pair("server", ["localhost", "127.0.0.1"], use="server")
        files.pair("cache_service", [], use="client")
        server = start_server(files, Path(folder) / "secure")
        try:
            for which in ("ours", "redis-py"):
                answers = context.Queue()
                process = context.Process(target=child, args=(which, server.target(), answers))
                process.start()
                print(f"{which}: {answers.get(timeout=60):+.1f} MB at {CALLERS} concurrent")
                process.join()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
