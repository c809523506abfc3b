"""Performance monitor, security events and metrics: names and shapes of the contract, windows, bounds."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import FrozenInstanceError, fields

import pytest

from redkeep.errors import (
    AuthenticationError,
    ConfigurationError,
    DecryptionError,
    PermissionDeniedError,
    ServerUnavailableError,
    TLSError,
)
from redkeep.monitoring.events import BRUTE_FORCE_FAILURES, SecurityMonitor
from redkeep.monitoring.measures import CompressionMetric, InvalidationMetric, MemoryUsageMetric, PerformanceMetric
from redkeep.monitoring.metrics import SecurityMetricsCollector
from redkeep.monitoring.performance import MIB, CachePerformanceMonitor
from redkeep.optimization import SecurityOptimizationConfig


def test_defaults() -> None:
    """Every attribute of the contract, with its value."""
    monitor = CachePerformanceMonitor()
    assert (monitor.retention_hours, monitor.max_measurements) == (1, 1000)
    assert (monitor.memory_warning_threshold_bytes, monitor.memory_critical_threshold_bytes) == (50 * MIB, 100 * MIB)
    assert (monitor.key_generation_threshold, monitor.cache_operation_threshold) == (0.1, 0.05)
    assert (monitor.invalidation_rate_warning_per_hour, monitor.invalidation_rate_critical_per_hour) == (50, 100)
    lists = ("key_generation_times", "cache_operation_times", "compression_ratios", "memory_usage_measurements", "invalidation_events")
    counters = ("cache_hits", "cache_misses", "total_operations", "total_invalidations", "total_keys_invalidated")
    assert [getattr(monitor, name) for name in lists] == [[]] * 5
    assert [getattr(monitor, name) for name in counters] == [0] * 5


def test_hit_rate_counts_sets() -> None:
    """Hits among all operations, as the old class counted."""
    monitor = CachePerformanceMonitor()
    monitor.record_cache_operation_time("get", 0.01, True, 10, {"cache_tier": "redis"})
    monitor.record_cache_operation_time("get", 0.01, False)
    monitor.record_cache_operation_time("set", 0.01, False)
    monitor.record_cache_operation_time("set", 0.03, False)
    stats = monitor.get_performance_stats()
    assert (stats["cache_hit_rate"], stats["total_cache_operations"], stats["cache_hits"], stats["cache_misses"]) == (25.0, 4, 1, 1)
    assert {"get", "set"} == set(stats["cache_operations"]["by_operation_type"])
    assert "key_generation" not in stats


def test_all_sections() -> None:
    """Once measured, every section is there, and everything can be exported and forgotten."""
    monitor = CachePerformanceMonitor()
    monitor.record_key_generation_time(0.2, 2000, "qa", {"text_tier": "large"})
    monitor.record_cache_operation_time("get", 0.2, True)
    monitor.record_compression_ratio(1000, 250, 0.01, "qa")
    monitor.record_memory_usage({"a": {"b": 1}}, {"memory_used_bytes": 60 * MIB, "keys": 3})
    monitor.record_invalidation_event("op:qa", 3, 0.01, "manual", "test")
    stats = monitor.get_performance_stats()
    assert {"key_generation", "cache_operations", "compression", "memory_usage", "invalidation"} < set(stats)
    assert stats["key_generation"]["slow_operations"] == 1
    assert stats["compression"]["overall_savings_percent"] == 75.0
    assert stats["memory_usage"]["current"]["warning_threshold_reached"]
    assert [warning["severity"] for warning in monitor.get_memory_warnings()] == ["warning"]
    exported = monitor.export_metrics()
    assert exported["invalidation_events"][0]["pattern"] == "op:qa"
    assert exported["total_keys_invalidated"] == 3
    monitor.reset_stats()
    assert monitor.export_metrics()["cache_hits"] == 0
    assert monitor.get_memory_usage_stats() == {"no_measurements": True}
    assert monitor.get_memory_warnings() == []


def test_lists_are_bounded_and_old_records_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `max_measurements`, none older than the retention."""
    monitor = CachePerformanceMonitor(max_measurements=10)
    for number in range(50):
        monitor.record_cache_operation_time("get", number, True)
    assert [record.duration for record in monitor.cache_operation_times] == list(range(40, 50))
    now = monitor.cache_operation_times[-1].timestamp
    monkeypatch.setattr("redkeep.monitoring.performance.time.time", lambda: now + 3601)
    assert "cache_operations" not in monitor.get_performance_stats()
    assert monitor.cache_hits == 50


def test_slow_operations() -> None:
    """What took more than twice the average of its kind."""
    monitor = CachePerformanceMonitor()
    for duration in (0.01, 0.01, 0.01, 0.2):
        monitor.record_cache_operation_time("get", duration, True)
        monitor.record_key_generation_time(0.01, 10)
        monitor.record_compression_ratio(10, 5, duration)
    slow = monitor.get_recent_slow_operations()
    assert [record["duration"] for record in slow["cache_operations"]] == [0.2]
    assert (slow["key_generation"], len(slow["compression"])) == ([], 1)


def test_invalidation_rates_and_advice(caplog: pytest.LogCaptureFixture) -> None:
    """Too many in an hour: a level, advice, and one line in the log, not one an event."""
    monitor = CachePerformanceMonitor()
    assert monitor.get_invalidation_recommendations() == []
    for _ in range(60):
        monitor.record_invalidation_event("op:qa", 0, 0.001)
    assert sum(record.message == "invalidation_rate_high" for record in caplog.records) == 1
    found = monitor.get_invalidation_frequency_stats()
    assert (found["total_invalidations"], found["thresholds"]["current_alert_level"]) == (60, "warning")
    assert {"high_frequency", "dominant_pattern", "low_efficiency"} == {each["issue"] for each in monitor.get_invalidation_recommendations()}


def test_records() -> None:
    """The dataclasses of the contract."""
    assert CompressionMetric(1000, 250, 0.1).compression_ratio == 0.25
    assert CompressionMetric(0, 0, 0.1).compression_ratio == 1.0
    assert "duration" in {field.name for field in fields(PerformanceMetric)}
    assert "process_memory_mb" in {field.name for field in fields(MemoryUsageMetric)}
    assert "keys_invalidated" in {field.name for field in fields(InvalidationMetric)}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_events_are_frozen_and_know_their_zone() -> None:
    """An event cannot be changed, has a time zone, and reads like the PRD's dictionary."""
    monitor = SecurityMonitor()
    asyncio.run(monitor.log_auth_attempt(False, "cache_service"))
    event = monitor.security_events[-1]
    assert (event["type"], event["success"], event["username"]) == ("auth_attempt", False, "cache_service")
    assert event.timestamp.tzinfo is not None
    with pytest.raises(FrozenInstanceError):
        event.success = True  # type: ignore[misc]
    with pytest.raises(KeyError):
        event["nonsense"]


def test_failures_in_a_window() -> None:
    """Counts look back in time, not over the last ten events; a flood of another kind hides none."""
    clock = Clock()
    monitor = SecurityMonitor(max_events=5, clock=clock)
    for _ in range(3):
        monitor.record("auth_attempt")
    clock.now += 2 * 3600
    monitor.record("auth_attempt")
    monitor.record("auth_attempt", success=True)
    for _ in range(100):
        monitor.record("decryption_failure")
    assert (monitor.get_failure_count(1), monitor.get_failure_count(24), len(monitor.security_events)) == (1, 4, 5)
    assert monitor.count("decryption_failure") == 100


def test_guessing_is_recognised_once_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Five failures in five minutes: one event; slow failures none; a flood is not written line by line."""
    clock = Clock()
    monitor = SecurityMonitor(clock=clock)
    with caplog.at_level(logging.INFO):
        for _ in range(300):
            monitor.record("auth_attempt")
    assert monitor.count("brute_force") == 1
    assert len(caplog.records) < 100
    clock.now += 3600
    for _ in range(BRUTE_FORCE_FAILURES * 2):
        monitor.record("auth_attempt")
        clock.now += 120
    assert monitor.count("brute_force") == 1


def test_redis_down_is_no_security_event() -> None:
    """Each security error has its own kind; an unavailable server has none."""
    monitor = SecurityMonitor()
    assert monitor.record_error(ServerUnavailableError("down")) is None
    found = [
        monitor.record_error(error("x"))
        for error in (AuthenticationError, PermissionDeniedError, TLSError, DecryptionError, ConfigurationError)
    ]
    kinds = ["auth_attempt", "permission_denied", "tls_failure", "decryption_failure", "configuration_error"]
    assert kinds == [event.type for event in found if event]
    assert monitor.get_failure_count() == 1


def test_metrics() -> None:
    """The PRD's summary, with the last hour's failures and not those of a lifetime."""
    clock = Clock()
    metrics = SecurityMetricsCollector(clock=clock)
    assert metrics.get_security_summary()["authentication"]["success_rate_percent"] == 100
    metrics.record_auth_attempt(False)
    clock.now += 4000
    metrics.record_auth_attempt(True)
    metrics.record_auth_attempt(False)
    metrics.record_encryption_operation("encrypt", True)
    metrics.record_encryption_operation("decrypt", False)
    metrics.set_connection_count(2)
    metrics.record_security_event("warning")
    summary = metrics.get_security_summary()
    assert summary["authentication"] == {"total_attempts": 3, "success_rate_percent": 33.33, "recent_failures": 1}
    assert summary["encryption"] == {"total_operations": 1, "error_count": 1, "recent_errors": 1}
    assert summary["connections"] == {"active_count": 2}
    assert metrics.metrics["security_events"] == {"info": 0, "warning": 1, "error": 0}


def test_optimization_config() -> None:
    """The PRD's fields and numbers; nonsense is refused by name."""
    config = SecurityOptimizationConfig()
    assert (config.connection_pool_size, config.connection_max_age, config.encryption_batch_size) == (10, 300, 100)
    assert (config.security_event_buffer_size, config.metrics_collection_interval) == (100, 30)
    for wrong in ({"connection_pool_size": 0}, {"connection_max_age": -1}, {"encryption_batch_size": True}, {"security_event_buffer_size": 1001}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            SecurityOptimizationConfig(**wrong)  # type: ignore[arg-type]
