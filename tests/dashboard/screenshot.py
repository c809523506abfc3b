"""Makes the picture of the README: `python -m tests.dashboard.screenshot docs/dashboard.png`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.api.service import environment, serving
from tests.dashboard.browser import Page, chromium, showing
from tests.dashboard.stack import dashboard_environment, secured_redis
from tests.redis.caches import secure
from tests.redis.server import Server

SIZE = (1280, 780)


async def use(server: Server) -> None:
    """Some traffic, so that there is something to see."""
    async with secure(server) as cache:
        for number in range(2_000):
            cache.memory_cache.clear()
            if await cache.get_cached_response(f"text {number % 90}", "qa", {}) is None:
                await cache.cache_response(f"text {number % 90}", "qa", {}, {"answer": number})


def main(picture: str) -> None:
    """Start everything, look once, end everything."""
    folder = Path(tempfile.mkdtemp())
    with (
        secured_redis(maxmemory="268435456") as server,
        serving(environment(server), folder) as api,
        showing(dashboard_environment(api, folder), folder) as url,
        chromium() as driver,
    ):
        asyncio.run(use(server))
        time.sleep(5)
        page = Page(driver, url, api)
        page.open(size=SIZE)
        assert page.until(lambda: "login" in page.rows())
        time.sleep(2)
        driver.save_screenshot(picture)


if __name__ == "__main__":
    main(sys.argv[1])
