"""What the cache says of itself: statistics in the old shapes, and a health check."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from redkeep.cache.base import CacheBase
from redkeep.errors import PermissionDeniedError, RedkeepError, ServerUnavailableError
from redkeep.monitoring.measures import MemoryUsageMetric
from redkeep.monitoring.server_report import parse_info


class Reports(CacheBase):
    """Numbers for people and dashboards."""

    metrics_collection_interval: float = 0.0
    """Seconds for which the last INFO is good enough."""

    _info: tuple[float, dict[str, str]] | None = None

    def get_cache_hit_ratio(self) -> float:
        """Hits among all operations, in percent."""
        return self.performance_monitor._calculate_hit_rate()

    def get_performance_summary(self) -> dict[str, Any]:
        """The main numbers; averages are over the last ten measurements, in seconds."""
        monitor = self.performance_monitor
        keys, operations = monitor.key_generation_times[-10:], monitor.cache_operation_times[-10:]
        summary: dict[str, Any] = {
            "hit_ratio": self.get_cache_hit_ratio(),
            "total_operations": monitor.total_operations,
            "cache_hits": monitor.cache_hits,
            "cache_misses": monitor.cache_misses,
            "recent_avg_key_generation_time": sum(each.duration for each in keys) / len(keys) if keys else 0.0,
            "recent_avg_cache_operation_time": sum(each.duration for each in operations) / len(operations) if operations else 0.0,
            "total_invalidations": monitor.total_invalidations,
            "total_keys_invalidated": monitor.total_keys_invalidated,
        }
        if monitor.memory_usage_measurements:
            summary["memory_usage"] = self.get_memory_usage_stats()
        return summary

    def record_memory_usage(self, redis_stats: Mapping[str, Any] | None = None) -> MemoryUsageMetric | None:
        """Measure the memory tier, together with what `get_cache_stats()["redis"]` said."""
        return self.performance_monitor.record_memory_usage(self.memory_cache, redis_stats)

    def get_memory_usage_stats(self) -> dict[str, Any]:
        """See CachePerformanceMonitor."""
        return self.performance_monitor.get_memory_usage_stats()

    def get_memory_warnings(self) -> list[dict[str, Any]]:
        """See CachePerformanceMonitor."""
        return self.performance_monitor.get_memory_warnings()

    def reset_performance_stats(self) -> None:
        """Forget all measurements; entries stay."""
        self.performance_monitor.reset_stats()

    def get_invalidation_frequency_stats(self) -> dict[str, Any]:
        """See CachePerformanceMonitor."""
        return self.performance_monitor.get_invalidation_frequency_stats()

    def get_invalidation_recommendations(self) -> list[dict[str, Any]]:
        """See CachePerformanceMonitor."""
        return self.performance_monitor.get_invalidation_recommendations()

    async def get_cache_stats(self) -> dict[str, Any]:
        """Redis, memory tier and performance. `keys` counts the whole database: counting the cache's own would scan it."""
        redis_stats: dict[str, Any] = {"status": "unavailable", "keys": 0}
        try:
            info = await self._server_info()
            redis_stats = {"status": "connected", **_figures(info)}
        except ServerUnavailableError:
            pass
        except PermissionDeniedError:  # connected, and not entitled to INFO
            redis_stats = {"status": "connected", **_figures({})}
        except RedkeepError as error:
            redis_stats = {"status": "error", "keys": 0, "error": str(error)}
        self.record_memory_usage(redis_stats)
        held = len(self.memory_cache)
        return {
            "redis": redis_stats,
            "memory": {
                "memory_cache_entries": held,
                "memory_cache_size_limit": self.memory_cache_size,
                "memory_cache_utilization": f"{held}/{self.memory_cache_size}",
            },
            "performance": self.performance_monitor.get_performance_stats(),
        }

    async def health_check(self) -> dict[str, Any]:
        """Whether Redis answers, how fast, and what is wrong if not. Never raises."""
        start = time.perf_counter()
        try:
            await self._execute("PING")
            status, milliseconds = "healthy", (time.perf_counter() - start) * 1000
        except RedkeepError:
            status, milliseconds = "degraded", None
        return {
            "status": status,
            "redis": "connected" if status == "healthy" else "unavailable",
            "latency_ms": milliseconds,
            "breaker": self._breaker.state,
            "memory_cache_entries": len(self.memory_cache),
            "error": type(self.last_error).__name__ if self.last_error else None,
            "reason": str(self.last_error) if self.last_error else None,
        }

    async def _server_info(self) -> dict[str, str]:
        now = time.monotonic()
        if self._info is None or now - self._info[0] >= self.metrics_collection_interval:
            self._info = (now, await self._ask_info())
        else:
            await self._execute("PING")  # the figures may be a moment old; whether Redis is there may not
        return self._info[1]

    async def _ask_info(self) -> dict[str, str]:
        """A hook: INFO, by whoever may ask for it."""
        return parse_info(await self._execute("INFO"))


def _figures(info: Mapping[str, str]) -> dict[str, Any]:
    """The old class's figures; None where the server did not say."""
    databases = [value for name, value in info.items() if name.startswith("db") and value.startswith("keys=")]
    used = info.get("used_memory")
    clients = info.get("connected_clients")
    return {
        "keys": sum(int(value[5:].partition(",")[0]) for value in databases) if info else None,
        "memory_used": info.get("used_memory_human"),
        "memory_used_bytes": int(used) if used else None,
        "connected_clients": int(clients) if clients else None,
    }
