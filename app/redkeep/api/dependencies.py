"""What the routes stand on, opened and closed with the application: the gate, the cache, the monitoring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from redkeep.api.auth import Gate
from redkeep.api.keys import ApiKeys
from redkeep.api.limits import Limits
from redkeep.cache.dependencies import get_cache_service
from redkeep.cache.response import AIResponseCache
from redkeep.errors import ConfigurationError
from redkeep.monitoring.service import MonitoringService
from redkeep.settings import Settings


def open_gate(settings: Settings) -> Gate:
    """The gate that the environment describes; its key must be no other secret of ours. Raises ConfigurationError."""
    target = settings.target
    others = (target.password, target.janitor_password, target.health_password, target.monitor_password, *target.keys)
    return Gate(ApiKeys.from_environment(other_secrets=filter(None, others)), Limits.from_environment())


def backend_lifespan(env_file: Path | None = None, *, interval: float | None = None) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan that opens what the routes need, by the settings of `env_file`, or of the environment.

    `interval` is the seconds between two probes of the posture (by default 30). An application that has a cache of its own
    (`cache_lifespan`) keeps it: the routes then tell of that one. Redis may be down; wrong settings stop the start, with a
    ConfigurationError.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        from redkeep.cache.secure import SecureAIResponseCache

        settings = Settings.load(env_file)
        gate = open_gate(settings)
        monitoring = MonitoringService(env_file=env_file, interval=interval)
        gate.refused = lambda client: monitoring.monitor.record("api_key_refused", address=client)
        async with AsyncExitStack() as stack:
            cache = getattr(app.state, "redkeep_cache", None)
            if cache is None:
                cache = app.state.redkeep_cache = SecureAIResponseCache.from_settings(settings)
                stack.callback(delattr, app.state, "redkeep_cache")
                await stack.enter_async_context(cache)
            if isinstance(cache, SecureAIResponseCache):
                monitoring.include(cache.security_monitor, cache.security_metrics)
            stack.push_async_callback(monitoring.close)
            await monitoring.start()
            app.state.redkeep_gate, app.state.redkeep_monitoring = gate, monitoring
            try:
                yield
            finally:
                del app.state.redkeep_gate, app.state.redkeep_monitoring

    return lifespan


def cache_of(connection: HTTPConnection) -> AIResponseCache:
    """The application's cache. Raises ConfigurationError when its lifespan did not open one."""
    return get_cache_service(connection)


def monitoring_of(connection: HTTPConnection) -> MonitoringService:
    """The application's monitoring. Raises ConfigurationError when its lifespan did not open one."""
    service = getattr(connection.app.state, "redkeep_monitoring", None)
    if not isinstance(service, MonitoringService):
        raise ConfigurationError("the monitoring is not running: include redkeep_router() before the application starts")
    return service
