"""The records of the performance monitor: what was measured once, as the old class named it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class PerformanceMetric:
    """One timed operation. `duration` in seconds, `timestamp` in seconds since the epoch."""

    duration: float
    text_length: int
    timestamp: float = field(default_factory=time.time)
    operation_type: str = ""
    additional_data: dict[str, Any] | None = None


@dataclass(slots=True)
class CompressionMetric:
    """One compression. Sizes in bytes, time in seconds; the ratio is compressed to original, 1.0 for nothing."""

    original_size: int
    compressed_size: int
    compression_time: float
    timestamp: float = field(default_factory=time.time)
    operation_type: str = ""
    compression_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not self.compression_ratio:
            self.compression_ratio = self.compressed_size / self.original_size if self.original_size > 0 else 1.0


@dataclass(slots=True)
class MemoryUsageMetric:
    """How much memory the cache took at one moment."""

    total_cache_size_bytes: int
    cache_entry_count: int
    avg_entry_size_bytes: float
    memory_cache_size_bytes: int
    memory_cache_entry_count: int
    process_memory_mb: float
    timestamp: float = field(default_factory=time.time)
    cache_utilization_percent: float = 0.0
    warning_threshold_reached: bool = False
    additional_data: dict[str, Any] | None = None


@dataclass(slots=True)
class InvalidationMetric:
    """One invalidation. `duration` in seconds."""

    pattern: str
    keys_invalidated: int
    duration: float
    timestamp: float = field(default_factory=time.time)
    invalidation_type: str = ""
    operation_context: str = ""
    additional_data: dict[str, Any] | None = None
