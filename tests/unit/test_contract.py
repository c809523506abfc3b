"""The public interface of the old class, pinned: names, parameters, defaults and shapes, in both of our classes."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import inspect
from datetime import datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet

from redkeep.cache.interface import CacheInterface
from redkeep.cache.keys import CacheKeyGenerator
from redkeep.cache.layer import EncryptedCacheLayer
from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.errors import ConfigurationError
from redkeep.monitoring import measures
from redkeep.monitoring.performance import CachePerformanceMonitor

NOBODY = "redis://127.0.0.1:1/0"
PASSWORD = "Ux7_kq2PzR9-mWv4sLd8"  # pragma: allowlist secret - of no server

CLASSES = (AIResponseCache, SecureAIResponseCache)

# Parameters in their order: "*" begins the ones that are ours.
INIT = (
    "redis_url='redis://redis:6379', default_ttl=3600, text_hash_threshold=1000, hash_algorithm=sha256, "
    "compression_threshold=1000, compression_level=6, text_size_tiers=None, memory_cache_size=100, performance_monitor=None"
)
SYNC = {
    "_get_text_tier": "text",
    "_update_memory_cache": "key, value",
    "_compress_data": "data",
    "_decompress_data": "data",
    "_generate_cache_key": "text, operation, options, question=None",
    "get_cache_hit_ratio": "",
    "get_performance_summary": "",
    "record_memory_usage": "redis_stats=None",
    "get_memory_usage_stats": "",
    "get_memory_warnings": "",
    "reset_performance_stats": "",
    "get_invalidation_frequency_stats": "",
    "get_invalidation_recommendations": "",
}
ASYNC = {
    "connect": "",
    "get_cached_response": "text, operation, options, question=None",
    "cache_response": "text, operation, options, response, question=None",
    "invalidate_pattern": "pattern, operation_context=''",
    "invalidate_all": "operation_context='manual_clear_all'",
    "invalidate_by_operation": "operation, operation_context=''",
    "invalidate_memory_cache": "operation_context='memory_cache_clear'",
    "get_cache_stats": "",
    "get": "key",
    "set": "key, value, ttl=None",
    "delete": "key",
}
MONITOR = {
    "record_key_generation_time": "duration, text_length, operation_type='', additional_data=None",
    "record_cache_operation_time": "operation, duration, cache_hit, text_length=0, additional_data=None",
    "record_compression_ratio": "original_size, compressed_size, compression_time, operation_type=''",
    "record_memory_usage": "memory_cache, redis_stats=None, additional_data=None",
    "record_invalidation_event": (
        "pattern, keys_invalidated, duration, invalidation_type='manual', operation_context='', additional_data=None"
    ),
    "get_performance_stats": "",
    "get_invalidation_frequency_stats": "",
    "get_invalidation_recommendations": "",
    "get_memory_usage_stats": "",
    "get_memory_warnings": "",
    "get_recent_slow_operations": "threshold_multiplier=2.0",
    "reset_stats": "",
    "export_metrics": "",
}
SUMMARY = {
    *("hit_ratio", "total_operations", "cache_hits", "cache_misses", "recent_avg_key_generation_time"),
    *("recent_avg_cache_operation_time", "total_invalidations", "total_keys_invalidated"),
}
ATTRIBUTES = (
    *("redis", "redis_url", "default_ttl", "compression_threshold", "compression_level", "operation_ttls", "performance_monitor"),
    *("key_generator", "text_size_tiers", "memory_cache", "memory_cache_size", "memory_cache_order"),
)


def positional(function: Any) -> str:
    """The parameters that can be given by place, with their defaults."""
    shown = []
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self":
            default = "sha256" if each.default is hashlib.sha256 else repr(each.default)
            shown.append(each.name if each.default is each.empty else f"{each.name}={default}")
    return ", ".join(shown)


def needed(function: Any) -> list[str]:
    """Keyword-only parameters without a default: an old caller would not give them."""
    found = inspect.signature(function).parameters.values()
    return [each.name for each in found if each.kind is each.KEYWORD_ONLY and each.default is each.empty]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("name", "parameters"), [*SYNC.items(), *ASYNC.items()])
def test_methods(cls: Any, name: str, parameters: str) -> None:
    """Each is there, sync or async as it was, with the parameters in their places."""
    method = getattr(cls, name)
    assert parameters == positional(method)
    assert [] == needed(method)
    assert (name in ASYNC) == inspect.iscoroutinefunction(method)


def test_constructors() -> None:
    """The old class's and the PRD's, by place; the secure one takes every other argument of the old one by name."""
    assert INIT == positional(AIResponseCache.__init__)
    assert "redis_url='redis://redis:6379', default_ttl=3600, redis_password=None, redis_tls_enabled=False, encryption_key=None" == positional(
        SecureAIResponseCache.__init__
    )
    for cls in (*CLASSES, CacheKeyGenerator, CachePerformanceMonitor, EncryptedCacheLayer):
        assert [] == needed(cls.__init__)
    monitor = CachePerformanceMonitor()
    cache = SecureAIResponseCache(
        NOBODY, 60, text_hash_threshold=5, hash_algorithm=hashlib.sha512, compression_threshold=7, compression_level=3,
        text_size_tiers={"small": 1, "medium": 2, "large": 3}, memory_cache_size=4, performance_monitor=monitor,
    )
    assert (cache.redis_url, cache.default_ttl, cache.compression_threshold, cache.compression_level) == (NOBODY, 60, 7, 3)
    assert (cache.key_generator.text_hash_threshold, cache.memory_cache_size) == (5, 4)
    assert cache.key_generator.hash_algorithm is hashlib.sha512
    assert cache.performance_monitor is monitor
    assert cache._get_text_tier("ab") == "large"


@pytest.mark.parametrize("cls", CLASSES)
def test_attributes_are_public(cls: Any) -> None:
    """Those of the old class, in both; they can be read before anything connects."""
    cache = cls()
    assert [] == [name for name in ATTRIBUTES if not hasattr(cache, name)]
    assert (cache.redis, cache.memory_cache, cache.memory_cache_order) == (None, {}, [])


def test_interface_and_helpers() -> None:
    """CacheInterface, CacheKeyGenerator and EncryptedCacheLayer."""
    assert {"get", "set", "delete"} == CacheInterface.__abstractmethods__
    assert "text_hash_threshold=1000, hash_algorithm=sha256, performance_monitor=None" == positional(CacheKeyGenerator.__init__)
    assert "text" == positional(CacheKeyGenerator._hash_text_efficiently)
    assert "text, operation, options, question=None" == positional(CacheKeyGenerator.generate_cache_key)
    assert "encryption_key=None" == positional(EncryptedCacheLayer.__init__)
    assert ("data", "data") == (positional(EncryptedCacheLayer.encrypt_cache_data), positional(EncryptedCacheLayer.decrypt_cache_data))


@pytest.mark.parametrize(("name", "parameters"), MONITOR.items())
def test_monitor_methods(name: str, parameters: str) -> None:
    """Each with its parameters."""
    assert parameters == positional(getattr(CachePerformanceMonitor, name))


def test_monitor_and_its_records() -> None:
    """Constructor, attributes, and the fields of the four records in their order."""
    assert (
        "retention_hours=1, max_measurements=1000, memory_warning_threshold_bytes=52428800, memory_critical_threshold_bytes=104857600"
        == positional(CachePerformanceMonitor.__init__)
    )
    monitor = CachePerformanceMonitor()
    lists = ("key_generation_times", "cache_operation_times", "compression_ratios", "memory_usage_measurements", "invalidation_events")
    assert [[]] * 5 == [getattr(monitor, name) for name in lists]
    counters = ("cache_hits", "cache_misses", "total_operations", "total_invalidations", "total_keys_invalidated")
    assert [0] * 5 == [getattr(monitor, name) for name in counters]
    assert (monitor.key_generation_threshold, monitor.cache_operation_threshold) == (0.1, 0.05)
    fields = {
        "PerformanceMetric": "duration text_length timestamp operation_type additional_data",
        "CompressionMetric": "original_size compressed_size compression_time timestamp operation_type compression_ratio",
        "InvalidationMetric": "pattern keys_invalidated duration timestamp invalidation_type operation_context additional_data",
    }
    for name, names in fields.items():
        assert names.split() == [field.name for field in dataclasses.fields(getattr(measures, name))]
    assert dataclasses.is_dataclass(measures.MemoryUsageMetric)


@pytest.mark.parametrize("cls", CLASSES)
def test_shapes_without_redis(cls: Any) -> None:
    """Statistics, summary and performance have their keys also when nothing answers; nothing raises."""

    async def work() -> None:
        cache = cls(NOBODY, timeout=0.5)
        assert await cache.connect() is False
        assert await cache.get_cached_response("text", "qa", {}) is None
        stats = await cache.get_cache_stats()
        assert {"redis", "memory", "performance"} == stats.keys()
        assert {"status": "unavailable", "keys": 0} == stats["redis"]
        assert {"memory_cache_entries": 0, "memory_cache_size_limit": 100, "memory_cache_utilization": "0/100"} == stats["memory"]
        always = {"timestamp", "retention_hours", "cache_hit_rate", "total_cache_operations", "cache_hits", "cache_misses"}
        assert always <= stats["performance"].keys()
        assert SUMMARY <= cache.get_performance_summary().keys() <= SUMMARY | {"memory_usage"}
        assert cache.performance_monitor.cache_operation_times[0].additional_data["reason"] == "redis_connection_failed"
        await cache.close()

    asyncio.run(work())


class TestSecureAIResponseCache:
    """The PRD's own tests, with a password as long as its Settings demands, and connect() that tells instead of raising."""

    def test_secure_cache_maintains_airesponse_interface(self) -> None:
        """Every public name of the parent is there."""
        cache = SecureAIResponseCache(redis_url="redis://localhost:6379", redis_password=PASSWORD)
        assert [] == [name for name in dir(AIResponseCache) if not name.startswith("_") and not hasattr(cache, name)]
        assert isinstance(cache, AIResponseCache)

    def test_authentication_required(self) -> None:
        """Without a server no connection; a password that is too short is refused before anything is sent."""
        with pytest.raises(ConfigurationError, match="REDIS_PASSWORD"):
            SecureAIResponseCache(redis_url="redis://localhost:6379", redis_password="required")  # pragma: allowlist secret - too short
        assert asyncio.run(SecureAIResponseCache(NOBODY, redis_password=PASSWORD, timeout=0.5).connect()) is False

    @pytest.mark.parametrize("key", [Fernet.generate_key().decode(), Fernet.generate_key()])
    def test_encryption_preserves_airesponse_format(self, key: Any) -> None:
        """An answer comes back, here from the memory tier; the key is what Fernet.generate_key returns, as text or bytes."""
        given = {"summary": "Test summary", "confidence": 0.95, "cached_at": datetime.now().isoformat(), "cache_hit": True}
        request: dict[str, Any] = {"text": "test text", "operation": "summarize", "options": {"max_length": 100}}

        async def work() -> Any:
            cache = SecureAIResponseCache(NOBODY, encryption_key=key, timeout=0.5)
            await cache.cache_response(**request, response=given)
            return await cache.get_cached_response(**request)

        found = asyncio.run(work())
        assert (found["summary"], found["confidence"], found["cache_hit"]) == ("Test summary", 0.95, True)

    def test_performance_monitoring_preserved(self) -> None:
        """Summary and statistics keep their keys."""
        cache = SecureAIResponseCache(NOBODY, redis_password=PASSWORD, timeout=0.5)
        assert {"hit_ratio", "total_operations"} <= cache.get_performance_summary().keys()
        assert {"performance", "redis"} <= asyncio.run(cache.get_cache_stats()).keys()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"encryption_key": ""}, "encryption_key"),
        ({"encryption_key": []}, "encryption_key"),
        ({"encryption_key": b"\xff" * 44}, "encryption_key"),
        ({"redis_password": ""}, "REDIS_PASSWORD"),
        ({"redis_tls_ca_file": "ca.crt"}, "redis_tls_ca_file is given although TLS is off"),
        ({"redis_tls_cert_file": "a.crt", "redis_tls_key_file": "a.key"}, "redis_tls_cert_file is given although TLS is off"),
        ({"namespace": "tenant"}, "namespace"),
    ],
)
def test_no_security_lost_by_half_an_argument(arguments: dict[str, Any], named: str) -> None:
    """An empty key or password (a variable that is not set), files without TLS, a namespace without sealing: refused, by name."""
    with pytest.raises(ConfigurationError, match=named):
        SecureAIResponseCache("redis://localhost:6379", **arguments)


def test_tls_files_by_argument_reach_the_connection() -> None:
    """A CA file beside rediss:// is used, also when it is the only security argument."""
    cache = SecureAIResponseCache("rediss://localhost:6379", redis_tls_ca_file="ca.crt")
    assert cache._access is not None
    assert (cache.redis_tls_enabled, str(cache._access.target.ca_file)) == (True, "ca.crt")


def test_a_ring_is_taken_as_it_is() -> None:
    """Keys may also come as a KeyRing, or as several strings."""
    ring = KeyRing.from_strings([generate_key(), generate_key()])
    for keys in (ring, [generate_key(), generate_key()], f"{generate_key()}, {generate_key()}"):
        cache = SecureAIResponseCache(NOBODY, encryption_key=keys)
        assert cache.encryption is not None
        assert len(cache.encryption.ring) == 2
