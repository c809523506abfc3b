"""What the cache's routes answer, as OpenAPI documents it. Durations in seconds, rates and ratios as each field says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class RedisFigures(BaseModel):
    """Redis as the cache sees it; null where the server does not say."""

    status: Literal["connected", "unavailable", "error"]
    keys: int | None = Field(description="Keys in the whole database")
    memory_used: str | None = None
    memory_used_bytes: int | None = None
    connected_clients: int | None = None
    error: str | None = None


class MemoryFigures(BaseModel):
    """The memory tier of the process that answers."""

    memory_cache_entries: int
    memory_cache_size_limit: int
    memory_cache_utilization: str = Field(description="entries/limit")


class Durations(BaseModel):
    """Of one kind of operation, in seconds."""

    count: int
    avg_duration: float
    median_duration: float
    max_duration: float
    min_duration: float


class Times(BaseModel):
    """Of all operations, in seconds."""

    total_operations: int
    slow_operations: int
    avg_duration: float
    median_duration: float
    max_duration: float
    min_duration: float
    avg_text_length: float | None = None
    max_text_length: int | None = None


class OperationTimes(Times):
    """With the same for each kind."""

    by_operation_type: dict[str, Durations]


class Compression(BaseModel):
    """Ratios are compressed to original; times in seconds."""

    total_operations: int
    avg_compression_ratio: float
    median_compression_ratio: float
    best_compression_ratio: float
    worst_compression_ratio: float
    avg_compression_time: float
    max_compression_time: float
    total_bytes_processed: int
    total_bytes_saved: int
    overall_savings_percent: float


class MemoryNow(BaseModel):
    """The last measurement."""

    total_cache_size_mb: float
    memory_cache_size_mb: float
    cache_entry_count: int
    memory_cache_entry_count: int
    avg_entry_size_bytes: float
    process_memory_mb: float
    cache_utilization_percent: float
    warning_threshold_reached: bool


class MemoryThresholds(BaseModel):
    """In MiB."""

    warning_threshold_mb: float
    critical_threshold_mb: float
    warning_threshold_reached: bool
    critical_threshold_reached: bool


class MemoryTrends(BaseModel):
    """Over the measurements that are kept."""

    total_measurements: int
    avg_total_cache_size_mb: float
    max_total_cache_size_mb: float
    growth_mb: float


class MemoryUsage(BaseModel):
    """Either `no_measurements`, or the three sections."""

    no_measurements: bool | None = None
    current: MemoryNow | None = None
    thresholds: MemoryThresholds | None = None
    trends: MemoryTrends | None = None


class InvalidationRates(BaseModel):
    """Invalidations in time windows."""

    last_hour: int
    last_24_hours: int
    average_per_hour: float


class InvalidationThresholds(BaseModel):
    """Invalidations an hour."""

    warning_per_hour: int
    critical_per_hour: int
    current_alert_level: Literal["normal", "warning", "critical"]


class InvalidationPatterns(BaseModel):
    """How often each pattern and each type came."""

    most_common_patterns: dict[str, int]
    invalidation_types: dict[str, int]


class InvalidationEfficiency(BaseModel):
    """Durations in seconds."""

    avg_keys_per_invalidation: float
    avg_duration: float
    max_duration: float
    keyless_invalidations: int


class InvalidationStatistics(BaseModel):
    """Either `no_invalidations`, or the sections."""

    no_invalidations: bool | None = None
    total_invalidations: int
    total_keys_invalidated: int
    warning_threshold_reached: bool
    rates: InvalidationRates | None = None
    thresholds: InvalidationThresholds | None = None
    patterns: InvalidationPatterns | None = None
    efficiency: InvalidationEfficiency | None = None


class Performance(BaseModel):
    """The performance monitor of the process that answers; a section is null until something was measured."""

    timestamp: str = Field(description="ISO 8601")
    retention_hours: float
    cache_hit_rate: float = Field(description="Share of operations that were hits, percent")
    total_cache_operations: int
    cache_hits: int
    cache_misses: int
    key_generation: Times | None = None
    cache_operations: OperationTimes | None = None
    compression: Compression | None = None
    memory_usage: MemoryUsage | None = None
    invalidation: InvalidationStatistics | None = None


class Logins(BaseModel):
    """Of the process that answers."""

    total_attempts: int
    success_rate_percent: float
    recent_failures: int = Field(description="In the last hour")


class Sealing(BaseModel):
    """Of the process that answers."""

    total_operations: int
    error_count: int
    recent_errors: int = Field(description="In the last hour")


class Connections(BaseModel):
    """Of the process that answers."""

    active_count: int


class CacheSecurity(BaseModel):
    """What the cache itself did and met."""

    tls: bool
    encryption_enabled: bool
    encryption: Sealing
    errors: dict[str, int] = Field(description="Failures by kind")
    authentication: Logins
    connections: Connections
    events: dict[str, int] = Field(description="By severity")


class CacheStatus(BaseModel):
    """Redis, the memory tier and the performance monitor."""

    redis: RedisFigures
    memory: MemoryFigures
    performance: Performance
    security: CacheSecurity | None = None


class Invalidated(BaseModel):
    """What an invalidation did."""

    message: str
    keys_invalidated: int = Field(description="Removed at once; entries made unreachable by a new epoch expire later")


class Recommendation(BaseModel):
    """What the pattern of invalidations suggests."""

    severity: Literal["info", "warning", "critical"]
    issue: str
    message: str
    suggestions: list[str]


class Recommendations(BaseModel):
    """Most severe first; empty when there is nothing to say."""

    recommendations: list[Recommendation]
