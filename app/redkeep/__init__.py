"""Redkeep: an encrypted cache in front of a hardened Redis."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from redkeep.access.acl_manager import BasicACLManager
    from redkeep.access.secure_connection import SecureRedisAuth, TLSRedisConnection
    from redkeep.cache.interface import CacheInterface
    from redkeep.cache.keys import CacheKeyGenerator
    from redkeep.cache.layer import EncryptedCacheLayer
    from redkeep.cache.response import AIResponseCache
    from redkeep.cache.secure import SecureAIResponseCache
    from redkeep.errors import (
        AlertError,
        AuthenticationError,
        CertificateError,
        ConfigurationError,
        DecryptionError,
        PermissionDeniedError,
        RedkeepError,
        SecretStoreError,
        SecurityError,
        ServerUnavailableError,
        TLSError,
    )
    from redkeep.migration.cache_migration import AIResponseCacheSecurityMigration
    from redkeep.migration.manager import DetailedMigrationManager
    from redkeep.monitoring.alerts import SimpleAlertManager
    from redkeep.monitoring.events import SecurityMonitor
    from redkeep.monitoring.metrics import SecurityMetricsCollector
    from redkeep.monitoring.performance import CachePerformanceMonitor
    from redkeep.monitoring.status import get_security_status
    from redkeep.optimization import SecurityOptimizationConfig
    from redkeep.settings import Settings

__all__ = [
    "AIResponseCache",
    "AIResponseCacheSecurityMigration",
    "AlertError",
    "AuthenticationError",
    "BasicACLManager",
    "CacheInterface",
    "CacheKeyGenerator",
    "CachePerformanceMonitor",
    "CertificateError",
    "ConfigurationError",
    "DecryptionError",
    "DetailedMigrationManager",
    "EncryptedCacheLayer",
    "PermissionDeniedError",
    "RedkeepError",
    "SecretStoreError",
    "SecureAIResponseCache",
    "SecureRedisAuth",
    "SecurityError",
    "SecurityMetricsCollector",
    "SecurityMonitor",
    "SecurityOptimizationConfig",
    "ServerUnavailableError",
    "Settings",
    "SimpleAlertManager",
    "TLSError",
    "TLSRedisConnection",
    "get_security_status",
]

# Loaded at first use: `import redkeep` costs a few milliseconds, Settings (pydantic) some 150.
_HOMES = {
    "BasicACLManager": "redkeep.access.acl_manager",
    "SecureRedisAuth": "redkeep.access.secure_connection",
    "TLSRedisConnection": "redkeep.access.secure_connection",
    "CacheInterface": "redkeep.cache.interface",
    "CacheKeyGenerator": "redkeep.cache.keys",
    "EncryptedCacheLayer": "redkeep.cache.layer",
    "AIResponseCache": "redkeep.cache.response",
    "SecureAIResponseCache": "redkeep.cache.secure",
    "AIResponseCacheSecurityMigration": "redkeep.migration.cache_migration",
    "DetailedMigrationManager": "redkeep.migration.manager",
    "SimpleAlertManager": "redkeep.monitoring.alerts",
    "SecurityMonitor": "redkeep.monitoring.events",
    "SecurityMetricsCollector": "redkeep.monitoring.metrics",
    "CachePerformanceMonitor": "redkeep.monitoring.performance",
    "get_security_status": "redkeep.monitoring.status",
    "SecurityOptimizationConfig": "redkeep.optimization",
    "Settings": "redkeep.settings",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'redkeep' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "redkeep.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
