"""The application of before with our package in it: some clients that read the entries of before and write their own, sealed.

Runs on the lab's hosts by the package there: `new_app.py FOLDER CLIENTS ENTRIES [SETTINGS]`. Nothing is kept in memory, so that
each answer comes from Redis. An operation that meets a server that is away is tried again until its deadline; it has failed when
that is over, when an entry is not found although the server answers, or when it has another value.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redkeep import SecureAIResponseCache
from redkeep.settings import Settings

SETTINGS = "/etc/redkeep/cache.env"
DEADLINE_SECONDS = 10.0
PAUSE_SECONDS = 0.1
OPERATION = "key_points"


class Client:
    """One cache, and what it met."""

    def __init__(self, number: int, folder: Path, entries: int, settings: Path) -> None:
        self.number, self.folder, self.entries, self.settings = number, folder, entries, settings
        self.operations, self.retried, self.slowest = 0, 0, 0.0
        self.failed: list[str] = []
        self.turn = 0

    @property
    def text(self) -> str:
        """What its own entry is about."""
        return f"our client {self.number}"

    async def run(self) -> None:
        """Write and read until told to stop; ready after two rounds."""
        async with SecureAIResponseCache.from_settings(Settings.load(self.settings), memory_cache_size=0) as cache:
            while self.turn < 2 or not (self.folder / "stop").exists():
                self.turn += 1
                await self._try(cache, "write", lambda: self._write(cache))
                await self._read(cache, self.text, OPERATION, f"turn {self.turn}")
                entry = random.randrange(self.entries)  # noqa: S311 - which entry is looked at
                await self._read(cache, f"text {entry}", "summarize", f"text {entry}")
                if self.turn == 2:
                    (self.folder / f"ready{self.number}").touch()
                await asyncio.sleep(PAUSE_SECONDS)
            if wrong := cache.error_counts["decryption"]:
                self.failed.append(f"{wrong} values did not open")

    async def _write(self, cache: SecureAIResponseCache) -> bool:
        await cache.cache_response(self.text, OPERATION, {}, {"summary": f"turn {self.turn}"})
        return True

    async def _read(self, cache: SecureAIResponseCache, text: str, operation: str, wanted: str) -> None:
        found = await self._try(cache, f"read {text}", lambda: cache.get_cached_response(text, operation, {}))
        if found is not None and found.get("summary") != wanted:
            self.failed.append(f"{text}: {found.get('summary')!r}, wanted {wanted!r}")

    async def _try(self, cache: SecureAIResponseCache, what: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of the operation; None when it has failed, which is noted."""
        began = time.monotonic()
        while time.monotonic() - began < DEADLINE_SECONDS:
            errors = sum(cache.error_counts.values())
            answer = await operation()
            if cache.last_error is not None or sum(cache.error_counts.values()) != errors:
                self.retried += 1
                await asyncio.sleep(0.05)
                continue
            if answer is None:
                self.failed.append(f"{what}: not found")
            self.operations += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            return answer
        self.failed.append(f"{what}: {cache.last_error}")
        return None


async def main() -> None:
    """Work, and print what was met and what each client has written last, by the name of the old class, as one JSON document."""
    folder, clients, entries = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settings = Path(sys.argv[4] if sys.argv[4:] else SETTINGS)
    all_of_them = [Client(number, folder, entries, settings) for number in range(clients)]
    await asyncio.gather(*(each.run() for each in all_of_them))
    print(
        json.dumps(
            {
                "operations": sum(each.operations for each in all_of_them),
                "retried": sum(each.retried for each in all_of_them),
                "slowest": round(max(each.slowest for each in all_of_them), 3),
                "failed": [text for each in all_of_them for text in each.failed][:50],
                "written": {f"ai_cache:op:{OPERATION}|txt:{each.text}": f"turn {each.turn}" for each in all_of_them},
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
