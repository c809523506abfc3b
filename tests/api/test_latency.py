"""How fast the status is while the cache is under load; the figure of docs/api.md."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.api.service import Api, environment
from tests.redis.server import Server

pytestmark = pytest.mark.soak
LOAD = """
import asyncio, os
from redkeep import SecureAIResponseCache

async def work(cache, number):
    while True:
        cache.memory_cache.clear()
        if await cache.get_cached_response(f"text {number}", "qa", {}) is None:
            await cache.cache_response(f"text {number}", "qa", {}, {"answer": "x" * 500})
        number = (number + 7) % 5000

async def main():
    async with SecureAIResponseCache.from_settings() as cache:
        await asyncio.gather(*(work(cache, n) for n in range(50)))

asyncio.run(main())
"""


@pytest.fixture
def load(server: Server) -> Iterator[None]:
    """Another process that reads and writes without a pause, 50 tasks at a time."""
    process = subprocess.Popen([sys.executable, "-c", LOAD], env=environment(server))
    time.sleep(2)
    yield
    assert process.poll() is None
    process.kill()
    process.wait()


def test_the_status_is_quick_under_load(api: Api, load: None, capsys: pytest.CaptureFixture[str]) -> None:
    """600 calls, ten a second for a minute: on a quiet machine 97 of 100 take less than 50 ms; the limit leaves room for a busy one."""
    took = []
    for _ in range(600):
        began = time.perf_counter()
        assert 200 == api.get("/monitoring/security-status").status_code
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(0.1)
    took.sort()
    with capsys.disabled():
        print(f"\nstatus under load: median {took[300]:.1f} ms, 97 % {took[582]:.1f} ms, longest {took[-1]:.1f} ms")
    assert took[582] < 500
