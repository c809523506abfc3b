"""The settings of redis.conf for one host of an inventory; what they are is redkeep.stack.server_settings' business."""

from __future__ import annotations

from deploys.bundle import Bundle
from redkeep.stack.server_settings import (
    CERTIFICATE_SETTINGS,
    DATA,
    FIXED_AT_START,
    NEVER_ASKED,
    SET_BY_THE_SERVICE,
    Section,
    ServerPlan,
    flatten,
    line,
    server_sections,
)

__all__ = [
    "CERTIFICATE_SETTINGS",
    "DATA",
    "FIXED_AT_START",
    "NEVER_ASKED",
    "SET_BY_THE_SERVICE",
    "Section",
    "flatten",
    "line",
    "server_settings",
]


def server_settings(bundle: Bundle, *, addresses: tuple[str, ...], memory_bytes: int, certificates: str) -> tuple[Section, ...]:
    """All sections of redis.conf for one host.

    ``addresses`` are those to listen on, ``memory_bytes`` the host's memory, ``certificates`` the folder in use.
    """
    knobs, engine, boxed = bundle.knobs, bundle.engine, bundle.in_container
    return server_sections(
        ServerPlan(
            addresses=addresses,
            certificates=certificates,
            acl_file=engine.acl_file,
            data_folder=DATA if boxed else engine.data_folder,
            maxmemory_bytes=knobs.maxmemory_bytes(memory_bytes),
            in_container=boxed,
            pid_file="" if boxed else engine.pid_file,
            log_file="" if boxed else engine.log_file,
            port=knobs.redis_tls_port,
            tls_minimum_version=knobs.tls_minimum_version,
            tls_client_certificates=knobs.tls_client_certificates,
            maxmemory_policy=knobs.redis_maxmemory_policy,
            maxmemory_clients=knobs.redis_maxmemory_clients,
            maxclients=knobs.redis_maxclients,
            idle_timeout=knobs.redis_idle_timeout,
            tcp_keepalive=knobs.redis_tcp_keepalive,
            max_value_bytes=knobs.redis_max_value_bytes,
            databases=knobs.redis_databases,
            persistence=knobs.redis_persistence,
            log_level=knobs.redis_log_level,
        )
    )
