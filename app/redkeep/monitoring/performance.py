"""The performance monitor of the old class, name for name: times, ratios, memory, invalidations.

Lists keep `max_measurements` records of the last `retention_hours`. `total_operations` counts gets and sets, so nothing about
security is recorded here: it would spoil the hit rate.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import starmap
from typing import Any, Final, Generic, Protocol, TypeVar

from redkeep.monitoring.advice import invalidation_advice, invalidation_statistics, memory_statistics, memory_warnings
from redkeep.monitoring.measures import CompressionMetric, InvalidationMetric, MemoryUsageMetric, PerformanceMetric

logger = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_QUIET_SECONDS: Final = 1.0
"""Between two warnings of slow operations: a slow server makes all of them slow."""


_SLACK: Final = 256


class _Timed(Protocol):
    @property
    def timestamp(self) -> float: ...


Metric = TypeVar("Metric", bound=_Timed)


class _Log(Generic[Metric]):
    """Records of one kind, as tuples until somebody reads them: making the objects takes longer than what they measure."""

    __slots__ = ("_build", "_records", "fresh")

    def __init__(self, build: Callable[..., Metric]) -> None:
        self._build = build
        self._records: list[Metric] = []
        self.fresh: list[tuple[Any, ...]] = []

    def keep(self, record: tuple[Any, ...], most: int) -> None:
        """Take one record; of those nobody has read, the last `most` stay, and now and then some more."""
        self.fresh.append(record)
        if len(self.fresh) > most + _SLACK:
            del self.fresh[: len(self.fresh) - most]

    def read(self, most: int) -> list[Metric]:
        """The last `most` records, oldest first; the same list each time."""
        if self.fresh:
            fresh, self.fresh = self.fresh, []
            self._records.extend(starmap(self._build, fresh))
            del self._records[: max(0, len(self._records) - most)]
        return self._records


class CachePerformanceMonitor:
    """Measurements of one cache. Recording costs a third of a microsecond."""

    def __init__(
        self,
        retention_hours: int = 1,
        max_measurements: int = 1000,
        memory_warning_threshold_bytes: int = 50 * MIB,
        memory_critical_threshold_bytes: int = 100 * MIB,
    ) -> None:
        """Thresholds in seconds and in events an hour can be set as attributes."""
        self.retention_hours = retention_hours
        self.max_measurements = max_measurements
        self.memory_warning_threshold_bytes = memory_warning_threshold_bytes
        self.memory_critical_threshold_bytes = memory_critical_threshold_bytes
        self.key_generation_threshold = 0.1
        self.cache_operation_threshold = 0.05
        self.invalidation_rate_warning_per_hour = 50
        self.invalidation_rate_critical_per_hour = 100
        self.reset_stats()

    def reset_stats(self) -> None:
        """Forget every measurement and counter."""
        self._keys = _Log(_timed)
        self._operations = _Log(_timed)
        self._compressions = _Log(CompressionMetric)
        self.memory_usage_measurements: list[MemoryUsageMetric] = []
        self.invalidation_events: list[InvalidationMetric] = []
        self.cache_hits = 0
        self.cache_misses = 0
        self.total_operations = 0
        self.total_invalidations = 0
        self.total_keys_invalidated = 0
        self._quiet_until = 0.0

    @property
    def key_generation_times(self) -> list[PerformanceMetric]:
        """How long making names took."""
        return self._keys.read(self.max_measurements)

    @property
    def cache_operation_times(self) -> list[PerformanceMetric]:
        """How long the operations took."""
        return self._operations.read(self.max_measurements)

    @property
    def compression_ratios(self) -> list[CompressionMetric]:
        """What compressing brought."""
        return self._compressions.read(self.max_measurements)

    def record_key_generation_time(
        self, duration: float, text_length: int, operation_type: str = "", additional_data: dict[str, Any] | None = None
    ) -> None:
        """Note how long making a key took, in seconds."""
        self._keys.keep((duration, text_length, time.time(), operation_type, additional_data), self.max_measurements)
        if duration > self.key_generation_threshold:
            logger.warning("slow_key_generation", extra={"seconds": round(duration, 4), "text_length": text_length})

    def record_cache_operation_time(
        self,
        operation: str,
        duration: float,
        cache_hit: bool,
        text_length: int = 0,
        additional_data: dict[str, Any] | None = None,
    ) -> None:
        """Note one operation; a `get` is a hit or a miss, everything counts as an operation."""
        self._operations.keep((duration, text_length, time.time(), operation, additional_data), self.max_measurements)
        self.total_operations += 1
        if operation == "get":
            if cache_hit:
                self.cache_hits += 1
            else:
                self.cache_misses += 1
        if duration > self.cache_operation_threshold and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
            logger.warning("slow_cache_operation", extra={"operation": operation, "seconds": round(duration, 4)})

    def record_compression_ratio(
        self, original_size: int, compressed_size: int, compression_time: float, operation_type: str = ""
    ) -> None:
        """Note one compression: bytes before, bytes after, seconds."""
        self._compressions.keep(
            (original_size, compressed_size, compression_time, time.time(), operation_type), self.max_measurements
        )

    def record_memory_usage(
        self,
        memory_cache: Any,
        redis_stats: Mapping[str, Any] | None = None,
        additional_data: dict[str, Any] | None = None,
    ) -> MemoryUsageMetric:
        """Measure the memory tier (a mapping, or what has `bytes_used`) together with what Redis says of itself."""
        here = int(getattr(memory_cache, "bytes_used", None) or _bytes_of(memory_cache))
        count = len(memory_cache)
        stats = redis_stats or {}
        total = here + int(stats.get("memory_used_bytes") or 0)
        entries = count + int(stats.get("keys") or 0)
        metric = MemoryUsageMetric(
            total_cache_size_bytes=total,
            cache_entry_count=entries,
            avg_entry_size_bytes=total / entries if entries else 0.0,
            memory_cache_size_bytes=here,
            memory_cache_entry_count=count,
            process_memory_mb=_process_bytes() / MIB,
            cache_utilization_percent=total / self.memory_warning_threshold_bytes * 100 if self.memory_warning_threshold_bytes else 0.0,
            warning_threshold_reached=total >= self.memory_warning_threshold_bytes,
            additional_data=additional_data,
        )
        self._keep(self.memory_usage_measurements, metric)
        if total >= self.memory_critical_threshold_bytes:
            logger.error("cache_memory_critical", extra={"bytes": total})
        elif metric.warning_threshold_reached:
            logger.warning("cache_memory_high", extra={"bytes": total})
        return metric

    def record_invalidation_event(
        self,
        pattern: str,
        keys_invalidated: int,
        duration: float,
        invalidation_type: str = "manual",
        operation_context: str = "",
        additional_data: dict[str, Any] | None = None,
    ) -> None:
        """Note one invalidation."""
        self._keep(
            self.invalidation_events,
            InvalidationMetric(
                pattern, keys_invalidated, duration, time.time(), invalidation_type, operation_context, additional_data
            ),
        )
        self.total_invalidations += 1
        self.total_keys_invalidated += keys_invalidated
        last_hour = sum(event.timestamp >= time.time() - 3600 for event in self.invalidation_events)
        if last_hour == self.invalidation_rate_critical_per_hour:  # once on the way up, not at every event above
            logger.error("invalidation_rate_critical", extra={"events": last_hour})
        elif last_hour == self.invalidation_rate_warning_per_hour:
            logger.warning("invalidation_rate_high", extra={"events": last_hour})

    def get_performance_stats(self) -> dict[str, Any]:
        """Everything as one dictionary; a section is there once it has been measured."""
        self._drop_old()
        found: dict[str, Any] = {
            "timestamp": datetime.now(UTC).isoformat(),
            "retention_hours": self.retention_hours,
            "cache_hit_rate": self._calculate_hit_rate(),
            "total_cache_operations": self.total_operations,
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
        }
        if self.key_generation_times:
            found["key_generation"] = _times(self.key_generation_times, self.key_generation_threshold, lengths=True)
        if self.cache_operation_times:
            kinds: dict[str, list[PerformanceMetric]] = {}
            for record in self.cache_operation_times:
                kinds.setdefault(record.operation_type, []).append(record)
            found["cache_operations"] = {
                **_times(self.cache_operation_times, self.cache_operation_threshold),
                "by_operation_type": {kind: _durations(records) for kind, records in kinds.items()},
            }
        if self.compression_ratios:
            before = sum(record.original_size for record in self.compression_ratios)
            after = sum(record.compressed_size for record in self.compression_ratios)
            ratios = [record.compression_ratio for record in self.compression_ratios]
            seconds = [record.compression_time for record in self.compression_ratios]
            found["compression"] = {
                "total_operations": len(ratios),
                "avg_compression_ratio": statistics.fmean(ratios),
                "median_compression_ratio": statistics.median(ratios),
                "best_compression_ratio": min(ratios),
                "worst_compression_ratio": max(ratios),
                "avg_compression_time": statistics.fmean(seconds),
                "max_compression_time": max(seconds),
                "total_bytes_processed": before,
                "total_bytes_saved": before - after,
                "overall_savings_percent": (before - after) / before * 100 if before else 0.0,
            }
        if self.memory_usage_measurements:
            found["memory_usage"] = self.get_memory_usage_stats()
        if self.invalidation_events:
            found["invalidation"] = self.get_invalidation_frequency_stats()
        return found

    def get_invalidation_frequency_stats(self) -> dict[str, Any]:
        """How often, how many keys, which patterns, and whether the rate of the last hour is too high."""
        self._drop_old()
        return invalidation_statistics(
            self.invalidation_events,
            totals=(self.total_invalidations, self.total_keys_invalidated),
            thresholds=(self.invalidation_rate_warning_per_hour, self.invalidation_rate_critical_per_hour),
        )

    def get_invalidation_recommendations(self) -> list[dict[str, Any]]:
        """What the pattern of invalidations suggests, most severe first; empty when there is nothing to say."""
        return invalidation_advice(self.get_invalidation_frequency_stats())

    def get_memory_usage_stats(self) -> dict[str, Any]:
        """The last measurement, the trend, and how near the thresholds are."""
        self._drop_old()
        return memory_statistics(
            self.memory_usage_measurements,
            thresholds=(self.memory_warning_threshold_bytes, self.memory_critical_threshold_bytes),
        )

    def get_memory_warnings(self) -> list[dict[str, Any]]:
        """Which thresholds the last measurement has reached; empty when none."""
        return memory_warnings(
            self.memory_usage_measurements,
            thresholds=(self.memory_warning_threshold_bytes, self.memory_critical_threshold_bytes),
        )

    def get_recent_slow_operations(self, threshold_multiplier: float = 2.0) -> dict[str, list[dict[str, Any]]]:
        """What took more than `threshold_multiplier` times the average of its kind."""
        self._drop_old()

        def slow(records: Sequence[PerformanceMetric]) -> list[dict[str, Any]]:
            average = statistics.fmean(record.duration for record in records) if records else 0.0
            return [
                {**asdict(record), "times_slower": record.duration / average}
                for record in records
                if record.duration > average * threshold_multiplier > 0
            ]

        packing = [
            asdict(record)
            for record in self.compression_ratios
            if record.compression_time
            > threshold_multiplier * statistics.fmean(other.compression_time for other in self.compression_ratios)
        ]
        return {
            "key_generation": slow(self.key_generation_times),
            "cache_operations": slow(self.cache_operation_times),
            "compression": packing,
        }

    def export_metrics(self) -> dict[str, Any]:
        """Every record and counter, as plain data."""
        self._drop_old()
        return {
            "key_generation_times": [asdict(record) for record in self.key_generation_times],
            "cache_operation_times": [asdict(record) for record in self.cache_operation_times],
            "compression_ratios": [asdict(record) for record in self.compression_ratios],
            "memory_usage_measurements": [asdict(record) for record in self.memory_usage_measurements],
            "invalidation_events": [asdict(record) for record in self.invalidation_events],
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
            "total_operations": self.total_operations,
            "total_invalidations": self.total_invalidations,
            "total_keys_invalidated": self.total_keys_invalidated,
            "memory_warning_threshold_bytes": self.memory_warning_threshold_bytes,
            "memory_critical_threshold_bytes": self.memory_critical_threshold_bytes,
            "export_timestamp": datetime.now(UTC).isoformat(),
        }

    def _calculate_hit_rate(self) -> float:
        return self.cache_hits / self.total_operations * 100 if self.total_operations else 0.0

    def _keep(self, records: list[Metric], record: Metric) -> None:
        records.append(record)
        if len(records) > self.max_measurements:
            del records[: -self.max_measurements or None]

    def _drop_old(self) -> None:
        horizon = time.time() - self.retention_hours * 3600
        for records in (
            self.key_generation_times, self.cache_operation_times, self.compression_ratios, self.memory_usage_measurements,
            self.invalidation_events,
        ):
            while records and records[0].timestamp < horizon:
                _drop_before(records, horizon)


def _timed(duration: float, length: int, moment: float, kind: str, data: dict[str, Any] | None) -> PerformanceMetric:
    return PerformanceMetric(duration, length, moment, kind, None if data is None else dict(data))  # callers may share theirs


def _drop_before(records: list[Any], horizon: float) -> None:
    kept = [record for record in records if record.timestamp >= horizon]
    records[:] = kept


def _durations(records: Iterable[PerformanceMetric]) -> dict[str, Any]:
    seconds = [record.duration for record in records]
    return {
        "count": len(seconds), "avg_duration": statistics.fmean(seconds), "median_duration": statistics.median(seconds),
        "max_duration": max(seconds), "min_duration": min(seconds),
    }


def _times(records: Sequence[PerformanceMetric], threshold: float, *, lengths: bool = False) -> dict[str, Any]:
    summary = _durations(records)
    summary["total_operations"] = summary.pop("count")
    summary["slow_operations"] = sum(record.duration > threshold for record in records)
    if lengths:
        summary["avg_text_length"] = statistics.fmean(record.text_length for record in records)
        summary["max_text_length"] = max(record.text_length for record in records)
    return summary


def _bytes_of(memory_cache: Any) -> int:
    items: Callable[[], Iterable[tuple[Any, Any]]] | None = getattr(memory_cache, "items", None)
    if items is None:
        return sys.getsizeof(memory_cache)
    return sum(len(str(key)) + len(str(value)) for key, value in items())


def _process_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as source:
            return int(source.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
