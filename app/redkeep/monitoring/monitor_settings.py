"""What is watched and by whose leave: the SECURITY_MONITOR_... settings, read from the environment and checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redkeep.environment import read_env_file
from redkeep.errors import ConfigurationError
from redkeep.monitoring.setting_names import MONITOR_PREFIX as PREFIX
from redkeep.monitoring.setting_names import check_names
from redkeep.target import Address, parse_url


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Nodes besides the one of REDIS_URL, users besides ours that are expected on them, and where counts and figures go."""

    nodes: tuple[Address, ...] = ()
    users: frozenset[str] = frozenset()
    state_file: Path | None = None
    otlp_endpoint: str = ""

    @classmethod
    def of(cls, env_file: Path | None) -> MonitorSettings:
        """Those of an env file, or of this process's environment when none is given. Raises ConfigurationError."""
        return cls.read(read_env_file(env_file) if env_file else os.environ)

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> MonitorSettings:
        """From `SECURITY_MONITOR_...` variables; the state file also from systemd's STATE_DIRECTORY.

        Raises ConfigurationError with one sentence: which variable, and what to do; also for SECURITY_... variables that do not exist.
        """
        check_names(variables)
        named = variables.get(f"{PREFIX}STATE_FILE", "").strip()
        folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return cls(
            nodes=_nodes(variables),
            users=_users(variables),
            state_file=Path(named) if named else Path(folder) / "monitoring.json" if folder else None,
            otlp_endpoint=variables.get(f"{PREFIX}OTLP_ENDPOINT", "").strip(),
        )


def _nodes(variables: Mapping[str, str]) -> tuple[Address, ...]:
    found = {}
    for name in _parts(variables, "NODES"):
        try:
            address = parse_url(f"redis://{name}")
        except ConfigurationError:
            raise ConfigurationError(f"{PREFIX}NODES must be host:port, several separated by commas") from None
        if address.username or address.password or address.path or address.query:
            raise ConfigurationError(f"{PREFIX}NODES must be host:port, several separated by commas")
        found[(address.host, address.port)] = address
    return tuple(found.values())


def _users(variables: Mapping[str, str]) -> frozenset[str]:
    names = _parts(variables, "USERS")
    if not all(name.isprintable() and not any(map(str.isspace, name)) for name in names):
        raise ConfigurationError(f"{PREFIX}USERS must be names of Redis users, separated by commas")
    return frozenset(names)


def _parts(variables: Mapping[str, str], name: str) -> list[str]:
    return [part.strip() for part in variables.get(PREFIX + name, "").split(",") if part.strip()]
