"""What the measurements mean: statistics, warnings and recommendations from the records, as plain functions."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from redkeep.monitoring.measures import InvalidationMetric, MemoryUsageMetric


def invalidation_statistics(
    events: Sequence[InvalidationMetric], *, totals: tuple[int, int], thresholds: tuple[int, int]
) -> dict[str, Any]:
    """Rates, patterns and efficiency of `events`; `totals` are invalidations and keys, `thresholds` events an hour."""
    total, keys = totals
    warning, critical = thresholds
    if not events:
        return {
            "no_invalidations": True, "total_invalidations": total, "total_keys_invalidated": keys,
            "warning_threshold_reached": False,
        }
    now = time.time()
    last_hour = sum(event.timestamp >= now - 3600 for event in events)
    spread = max((now - events[0].timestamp) / 3600, 1.0)
    removed = [event.keys_invalidated for event in events]
    seconds = [event.duration for event in events]
    patterns = Counter(event.pattern for event in events)
    level = "critical" if last_hour >= critical else "warning" if last_hour >= warning else "normal"
    return {
        "total_invalidations": total,
        "total_keys_invalidated": keys,
        "rates": {
            "last_hour": last_hour, "last_24_hours": sum(event.timestamp >= now - 86_400 for event in events),
            "average_per_hour": len(events) / spread,
        },
        "thresholds": {"warning_per_hour": warning, "critical_per_hour": critical, "current_alert_level": level},
        "warning_threshold_reached": last_hour >= warning,
        "patterns": {
            "most_common_patterns": dict(patterns.most_common(10)),
            "invalidation_types": dict(Counter(event.invalidation_type for event in events)),
        },
        "efficiency": {
            "avg_keys_per_invalidation": statistics.fmean(removed), "avg_duration": statistics.fmean(seconds),
            "max_duration": max(seconds), "keyless_invalidations": sum(not count for count in removed),
        },
    }


def invalidation_advice(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Recommendations from `invalidation_statistics`: severity, issue, message, suggestions."""
    if found.get("no_invalidations"):
        return []
    advice: list[dict[str, Any]] = []
    level, rate = found["thresholds"]["current_alert_level"], found["rates"]["last_hour"]
    if level != "normal":
        advice.append(
            {
                "severity": level, "issue": "high_frequency", "message": f"{rate} invalidations in the last hour",
                "suggestions": ["use a longer time to live only where answers stay correct", "invalidate by operation, not key by key"],
            }
        )
    patterns, events = found["patterns"]["most_common_patterns"], sum(found["patterns"]["invalidation_types"].values())
    pattern, count = next(iter(patterns.items()))
    if events >= 10 and count > events / 2:
        advice.append(
            {
                "severity": "info", "issue": "dominant_pattern", "message": f"{count} of {events} invalidations are for {pattern!r}",
                "suggestions": ["give that operation a shorter time to live instead"],
            }
        )
    if events >= 10 and found["efficiency"]["keyless_invalidations"] > events / 2:
        advice.append(
            {
                "severity": "info", "issue": "low_efficiency", "message": "more than half of the invalidations removed nothing",
                "suggestions": ["check the patterns; in secure mode key names are hashed and only operations can be matched"],
            }
        )
    if found["efficiency"]["avg_keys_per_invalidation"] > 100:
        advice.append(
            {
                "severity": "warning", "issue": "high_impact", "message": "an invalidation removes more than 100 keys on average",
                "suggestions": ["invalidate by operation"],
            }
        )
    return advice


def memory_statistics(records: Sequence[MemoryUsageMetric], *, thresholds: tuple[int, int]) -> dict[str, Any]:
    """The last measurement, averages and trend; `thresholds` in bytes, warning and critical."""
    if not records:
        return {"no_measurements": True}
    last = records[-1]
    sizes = [record.total_cache_size_bytes for record in records]
    mib = 1024 * 1024
    return {
        "current": {
            "total_cache_size_mb": last.total_cache_size_bytes / mib,
            "memory_cache_size_mb": last.memory_cache_size_bytes / mib,
            "cache_entry_count": last.cache_entry_count,
            "memory_cache_entry_count": last.memory_cache_entry_count,
            "avg_entry_size_bytes": last.avg_entry_size_bytes,
            "process_memory_mb": last.process_memory_mb,
            "cache_utilization_percent": last.cache_utilization_percent,
            "warning_threshold_reached": last.warning_threshold_reached,
        },
        "thresholds": {
            "warning_threshold_mb": thresholds[0] / mib, "critical_threshold_mb": thresholds[1] / mib,
            "warning_threshold_reached": sizes[-1] >= thresholds[0], "critical_threshold_reached": sizes[-1] >= thresholds[1],
        },
        "trends": {
            "total_measurements": len(records), "avg_total_cache_size_mb": statistics.fmean(sizes) / mib,
            "max_total_cache_size_mb": max(sizes) / mib,
            "growth_mb": (sizes[-1] - sizes[0]) / mib,
        },
    }


def memory_warnings(records: Sequence[MemoryUsageMetric], *, thresholds: tuple[int, int]) -> list[dict[str, Any]]:
    """The thresholds that the last measurement has reached, each with what to do."""
    if not records or records[-1].total_cache_size_bytes < thresholds[0]:
        return []
    size = records[-1].total_cache_size_bytes
    critical = size >= thresholds[1]
    limit = thresholds[1] if critical else thresholds[0]
    return [
        {
            "severity": "critical" if critical else "warning",
            "message": f"the cache uses {size / 1048576:.1f} MB; the threshold is {limit / 1048576:.1f} MB",
            "recommendations": ["shorten the times to live", "lower memory_cache_size", "use REDIS_COMPRESSION=zstd"],
        }
    ]
