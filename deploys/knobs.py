"""The knobs of group_data/all.py as one frozen, validated value."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from redkeep.errors import ConfigurationError

# Data that pyinfra's connectors and its own arguments put beside our knobs.
_FOREIGN = re.compile(r"^(_.*|ssh_.*|docker_.*|dockerssh_.*|chroot_.*|vagrant_.*|terraform_.*|fake_.*)$")

# Given with --data to one verb, never kept in group_data.
_VERB_ARGUMENTS = frozenset(
    {
        "backups_folder",
        "confirm",
        "drill",
        "file",
        "force",
        "keep",
        "old_backup",
        "quiet",
        "replace_secrets",
        "secrets_folder",
        "stage",
        "stragglers",
        "unknown_keys",
        "users",
        "what",
    }
)

# Not zero: to Redis 0 means "no limit".
_SIZE = re.compile(r"([1-9][0-9]{0,14})(b|kb|mb|gb)")
_PERCENT = re.compile(r"([1-9][0-9]?)%")
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
# The name of a folder beside others: not "..".
_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{0,64}")
_SYSCTL = re.compile(r"[a-z0-9_]+(\.[a-z0-9_-]+)+")
# A reference that one content alone can have, or the path of an archive.
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]{0,254}@sha256:[0-9a-f]{64}|[A-Za-z0-9._~/+-]{1,254}\.(tar|tar\.gz|tgz)")
_PROCESSORS = re.compile(r"(0\.[1-9]|[1-9][0-9]{0,2}(\.[0-9])?)")
_UNITS = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
_POLICIES = (
    *("allkeys-lru", "allkeys-lfu", "allkeys-random"),
    *("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "noeviction"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knobs:
    """One field a knob; group_data/all.py says what each means, in which unit, and its default."""

    environment: str
    redis_engine: str
    redis_runtime: str
    container_image: str
    container_memory: str
    container_cpus: str
    container_subnet: str
    container_edge_subnet: str
    docker_engine: str
    redis_tls_port: int
    redis_address: str
    redis_bind: tuple[str, ...]
    allowed_clients: tuple[str, ...]
    app_address: str
    firewall: bool
    tls_minimum_version: str
    tls_client_certificates: str
    tls_names: tuple[str, ...]
    tls_renew_days: int
    tls_alarm_days: int
    redis_maxmemory: str
    redis_maxmemory_policy: str
    redis_maxclients: int
    redis_idle_timeout: int
    redis_tcp_keepalive: int
    redis_max_value_bytes: int
    redis_maxmemory_clients: str
    redis_databases: int
    redis_persistence: str
    redis_log_level: str
    redis_log_weeks: int
    kernel_settings: Mapping[str, int]
    transparent_hugepages: str
    minimum_memory_mib: int
    app_group: str
    app_users: tuple[str, ...]
    package_source: str
    cache_namespace: str
    cache_compression: str
    cache_tracking: bool
    api_enabled: bool
    api_port: int
    api_reachable: tuple[str, ...]
    api_image: str
    dashboard_enabled: bool
    dashboard_port: int
    dashboard_image: str

    def __post_init__(self) -> None:
        _one_of("redis_engine", self.redis_engine, ("redis", "valkey"))
        _one_of("redis_runtime", self.redis_runtime, ("native", "docker"))
        _one_of("docker_engine", self.docker_engine, ("hardened", "as-found"))
        _one_of("tls_minimum_version", self.tls_minimum_version, ("1.3", "1.2"))
        _one_of("tls_client_certificates", self.tls_client_certificates, ("required", "optional"))
        _one_of("redis_maxmemory_policy", self.redis_maxmemory_policy, _POLICIES)
        _one_of("redis_persistence", self.redis_persistence, ("off", "rdb", "aof"))
        _one_of("redis_log_level", self.redis_log_level, ("debug", "verbose", "notice", "warning"))
        _one_of("transparent_hugepages", self.transparent_hugepages, ("never", "madvise"))
        _one_of("package_source", self.package_source, ("index", "wheelhouse"))
        _one_of("cache_compression", self.cache_compression, ("none", "lz4", "zstd"))
        _between("redis_tls_port", self.redis_tls_port, 1, 65535)
        _between("api_port", self.api_port, 1024, 65535)
        _between("dashboard_port", self.dashboard_port, 1024, 65535)
        _between("redis_maxclients", self.redis_maxclients, 10, 60000)
        _between("redis_idle_timeout", self.redis_idle_timeout, 0, 86400)
        _between("redis_tcp_keepalive", self.redis_tcp_keepalive, 1, 3600)
        _between("redis_max_value_bytes", self.redis_max_value_bytes, 1024**2, 512 * 1024**2)
        _between("redis_databases", self.redis_databases, 1, 16)
        _between("redis_log_weeks", self.redis_log_weeks, 1, 520)
        _between("tls_renew_days", self.tls_renew_days, 1, 80)
        _between("tls_alarm_days", self.tls_alarm_days, 1, 80)
        _between("minimum_memory_mib", self.minimum_memory_mib, 64, 1024**2)
        for field in ("redis_bind", "allowed_clients", "api_reachable"):
            for address in getattr(self, field):
                _address(field, address, network=field != "redis_bind")
        for field in ("redis_address", "app_address"):
            if getattr(self, field):
                _host(field, getattr(self, field))
        for name in self.tls_names:
            _host("tls_names", name.removeprefix("*."))
        for name in (self.app_group, *self.app_users):
            _matches("app_group and app_users", name, _NAME, "a Linux account name such as www-data")
        if self.environment:
            _matches(
                "environment", self.environment, _ENVIRONMENT, "letters, digits, dot, dash and underscore, without a leading dot"
            )
        _matches("cache_namespace", self.cache_namespace, _NAMESPACE, "letters, digits, dot, dash and underscore")
        for key in self.kernel_settings:
            _matches("kernel_settings", key, _SYSCTL, "a mapping of sysctl names to whole numbers")
        self.maxmemory_bytes(1024**3)
        self._check_container()
        if not _PERCENT.fullmatch(self.redis_maxmemory_clients):
            raise _error("redis_maxmemory_clients", 'a share such as "10%"')

    def maxmemory_bytes(self, host_memory_bytes: int) -> int:
        """Redis' maxmemory in bytes on a host with that much memory."""
        if share := _PERCENT.fullmatch(self.redis_maxmemory):
            # Whole MiB: the kernel's own figure differs by some KiB between two boots of the same host.
            return host_memory_bytes * int(share[1]) // 100 // 1024**2 * 1024**2
        if (number := bytes_of(self.redis_maxmemory)) >= 1024**2:
            return number
        raise _error("redis_maxmemory", 'a share such as "50%" or a size such as "512mb", at least "1mb"')

    def _check_container(self) -> None:
        for field in ("container_image", "api_image", "dashboard_image"):
            if image := getattr(self, field):
                wanted = "empty, a reference with its digest (name@sha256:...) or the path of an archive (images/redis.tar)"
                _matches(field, image, _IMAGE, wanted)
        if self.container_memory and bytes_of(self.container_memory) < 1024**2:
            raise _error("container_memory", 'empty or a size such as "512mb"')
        if self.container_cpus:
            _matches("container_cpus", self.container_cpus, _PROCESSORS, 'empty or a number of processors such as "1.5"')
        for field in ("container_subnet", "container_edge_subnet"):
            if subnet := getattr(self, field):
                _subnet(field, subnet)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Knobs:
        """Check and freeze what the inventory and group_data say about one host.

        Raises ConfigurationError for an unknown name (with the nearest known one), a missing one or a wrong type.
        """
        fields = _types()
        for name in data:
            if name not in fields and name not in _VERB_ARGUMENTS and not _FOREIGN.match(name):
                close = difflib.get_close_matches(name, fields, n=1)
                hint = f"did you mean {close[0]}?" if close else "group_data/all.py lists them all."
                raise ConfigurationError(f"There is no knob {name}: {hint}")
        missing = [name for name in fields if name not in data]
        if missing:
            raise ConfigurationError(
                f"The knob {missing[0]} has no value: run this from the folder that holds group_data/all.py."
            )
        return cls(**{name: _typed(name, data[name], wanted) for name, wanted in fields.items()})


@cache
def _types() -> dict[str, Any]:
    return typing.get_type_hints(Knobs)


def _typed(name: str, value: Any, wanted: Any) -> Any:
    if wanted is str and isinstance(value, str):
        return value
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    origin = typing.get_origin(wanted)
    if origin is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _error(name, "a list of strings")
    if origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping) and all(
            isinstance(k, str) and isinstance(v, int) and not isinstance(v, bool) for k, v in value.items()
        ):
            return types.MappingProxyType(dict(value))
        raise _error(name, "a mapping of names to whole numbers")
    raise _error(name, {str: "a string", bool: "True or False", int: "a whole number"}[wanted])


def bytes_of(size: str) -> int:
    """A size such as "512mb" in bytes; 0 for a text that is none."""
    found = _SIZE.fullmatch(size.lower())
    return int(found[1]) * _UNITS[found[2]] if found else 0


def _error(field: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"The knob {field} must be {wanted}: change it in group_data or the inventory.")


def _one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _error(field, "one of " + ", ".join(choices))


def _between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _error(field, f"between {low} and {high}")


def _matches(field: str, value: str, pattern: re.Pattern[str], wanted: str) -> None:
    if not pattern.fullmatch(value):
        raise _error(field, wanted)


def _host(field: str, value: str) -> None:
    if not is_host(value):
        raise _error(field, "a host name or an IP address")


def is_host(text: str) -> bool:
    """Whether a text is a host name or an IP address, and nothing that could be more."""
    return _is_address(text) or bool(_HOST.fullmatch(text))


def _address(field: str, value: str, *, network: bool) -> None:
    if not _is_address(value, network=network):
        raise _error(field, "IP addresses" + (" or networks (CIDR, no host bits)" if network else ""))


def _subnet(field: str, value: str) -> None:
    """A private network with room for the gateway, the server and a few apps, and nothing that could be more."""
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise _error(field, "empty or an IPv4 network such as 10.213.0.0/28") from None
    if not network.is_private or not 16 <= network.prefixlen <= 29:
        raise _error(field, "a private IPv4 network between /16 and /29")


def _is_address(value: str, *, network: bool = False) -> bool:
    # After % Python takes any text for an IPv6 zone, line ends included.
    if "%" in value:
        return False
    try:
        ipaddress.ip_network(value) if network else ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
