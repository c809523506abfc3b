"""Invalidation: by pattern of readable names with SCAN and UNLINK, by operation, of everything, of the memory tier."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from redkeep.cache import arguments
from redkeep.cache.base import CacheBase, logger
from redkeep.cache.link import reason_of
from redkeep.errors import RedkeepError

if TYPE_CHECKING:
    from redkeep.access.client import CacheClient

SCAN_COUNT: Final = 1_000
"""Slots a step: some 0.3 ms of the server's time, during which it serves nobody else."""

_GLOB: Final = re.compile(r"([\\*?\[\]^-])")


class Invalidation(CacheBase):
    """Everything that makes cached answers invalid. The memory tier follows at once, whatever Redis does."""

    async def invalidate_pattern(self, pattern: str, operation_context: str = "") -> int:
        """Remove every entry whose name contains `pattern`, taken literally; returns how many there were in Redis.

        `op:NAME` means that operation and no longer name that begins like it; "" means all.
        """
        arguments.text(pattern, "pattern")
        if pattern.startswith("op:") and "|" not in pattern:
            glob = f"ai_cache:{escape_glob(pattern)}|*"
            head = f"ai_cache:{pattern}|"
            return await self._remove(pattern, glob, lambda name: name.startswith(head), operation_context)
        glob = f"ai_cache:*{escape_glob(pattern)}*" if pattern else "ai_cache:*"
        rest = len("ai_cache:")
        return await self._remove(pattern, glob, lambda name: pattern in name[rest:], operation_context)

    async def invalidate_all(self, operation_context: str = "manual_clear_all") -> int:
        """Remove every entry; returns how many there were in Redis."""
        return await self.invalidate_pattern("", operation_context)

    async def invalidate_by_operation(self, operation: str, operation_context: str = "") -> int:
        """Remove every answer to `operation`; returns how many there were in Redis."""
        arguments.text(operation, "operation")
        return await self.invalidate_pattern(f"op:{operation}", operation_context or f"operation_specific_{operation}")

    async def invalidate_memory_cache(self, operation_context: str = "memory_cache_clear") -> int:
        """Empty the memory tier; returns how many entries it held. Redis keeps what it has."""
        start = time.perf_counter()
        removed = self.memory_cache.clear()
        self.performance_monitor.record_invalidation_event(
            "memory_cache", removed, time.perf_counter() - start, "memory", operation_context, {"status": "success"}
        )
        return removed

    async def _remove(self, pattern: str, glob: str, matches: Any, context: str) -> int:
        start = time.perf_counter()
        here = self.memory_cache.pop_where(matches)
        removed = 0
        try:
            removed = await self._scan_and_unlink(glob)
            data: dict[str, Any] = {"status": "success" if removed else "no_keys_found"}
        except RedkeepError as error:
            logger.warning("cache_not_invalidated", extra={"pattern": pattern, "reason": str(error)})
            data = {"status": "failed", "reason": reason_of(error)}
        self.memory_cache.pop_where(matches)  # what a reader put back while the scan ran
        self._reads.forget()
        self.performance_monitor.record_invalidation_event(
            pattern, removed, time.perf_counter() - start, "manual", context, {**data, "memory_entries": here, "search_pattern": glob}
        )
        return removed

    async def _scan_and_unlink(self, glob: str) -> int:
        removed = 0
        async with self._janitor() as janitor:
            cursor: Any = b"0"
            while True:
                cursor, names = await janitor.execute("SCAN", cursor, "MATCH", glob.encode("utf-8", "surrogatepass"), "COUNT", SCAN_COUNT)
                if mine := [name for name in names if self._may_unlink(name)]:
                    removed += await janitor.execute("UNLINK", *mine)
                if int(cursor) == 0:
                    return removed

    def _may_unlink(self, name: bytes) -> bool:
        """A hook: whether what a scan has found is the caller's to remove."""
        return True

    @asynccontextmanager
    async def _janitor(self) -> AsyncIterator[CacheClient]:
        """A hook: whoever may scan. Here the cache's own connection."""
        if self.redis is None or not self._breaker.closed:
            yield await self._reach()
        else:
            yield self.redis


def escape_glob(text: str) -> str:
    """`text` as a pattern of Redis that matches `text` alone."""
    return _GLOB.sub(r"\\\1", text)
