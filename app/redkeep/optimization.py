"""What can be tuned for speed, by the PRD's names."""

from __future__ import annotations

from dataclasses import dataclass, fields

from redkeep.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptimizationConfig:
    """Give it to SecureAIResponseCache as `optimization`. Raises ConfigurationError for numbers below their least."""

    connection_pool_size: int = 10
    """Connections at most with REDIS_CLIENT=redis-py; the multiplexed transport needs two."""
    connection_max_age: int = 300
    """Seconds after which a redis-py connection is replaced; 0 keeps it. The multiplexed transport keeps its own."""
    encryption_batch_size: int = 100
    """Values that `set_many` and `get_many` seal or open before other tasks get a turn."""
    security_event_buffer_size: int = 100
    """Events that SecurityMonitor keeps, 1,000 at most; its counts do not depend on it."""
    metrics_collection_interval: int = 30
    """Seconds for which what INFO said is good enough for `get_cache_stats`."""
    dev_mode_skip_tls: bool = True
    """Whether REDIS_DEV_MODE allows plaintext. Production never does."""
    dev_mode_simple_passwords: bool = True
    """Kept for callers that set it. Simple passwords stay refused: `redkeep secrets env --development` makes a random one."""

    def __post_init__(self) -> None:
        least = {"connection_pool_size": 1, "encryption_batch_size": 1, "security_event_buffer_size": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < least.get(field.name, 0)):
                raise ConfigurationError(f"{field.name} must be a whole number of at least {least.get(field.name, 0)}")
        if self.security_event_buffer_size > 1_000:
            raise ConfigurationError("security_event_buffer_size must be 1000 at most")
