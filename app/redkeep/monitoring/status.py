"""The PRD's five fields, answered by what the probes found and never by what is configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from redkeep.monitoring.posture import Posture

_FIELDS: Final = {
    "redis_authenticated": (("login", "no login without password", "wrong password"), ("default user",)),
    "tls_enabled": (("TLS version", "server certificate"), ("plaintext on the TLS port", "plaintext port", "TLS downgrade")),
    "encryption_enabled": (("sealed round trip",), ()),
    "network_isolated": (("network reach",), ("plaintext port", "connected ports")),
}
"""Field -> controls that must be ok, and controls that must not be weak."""


def security_fields(posture: Posture) -> dict[str, bool]:
    """Each field is true only when its controls were seen to hold; a probe that could not run makes it false."""
    states = {control.name: control.state for control in posture.controls}
    return {
        field: all(states.get(name) == "ok" for name in hold) and all(states.get(name) not in ("weak", "unknown") for name in not_weak)
        for field, (hold, not_weak) in _FIELDS.items()
    }


async def get_security_status(env_file: Path | None = None) -> dict[str, Any]:
    """Probe the live system once and answer as the API does; the settings are those of `env_file`, or the environment's.

    `recent_auth_failures` is what the servers' own logs still hold of the last 24 hours; None without the password of
    `monitor`. A question sends no alert. A process that asks often keeps a `redkeep.monitoring.service.MonitoringService` instead.
    Raises ConfigurationError when the settings cannot be used.
    """
    from redkeep.monitoring.alert_settings import AlertSettings
    from redkeep.monitoring.service import MonitoringService

    service = MonitoringService(env_file=env_file, state_file=None, alerts=AlertSettings())
    try:
        await service.look()
        return await service.security_status()
    finally:
        await service.close()
