"""The settings of redis.conf, as values.

Each setting is written in the form in which CONFIG GET shows it (bytes without a unit, "slave" for "replica"), so that
the file and the running server are compared as plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# AEAD with forward secrecy only. Mozilla "modern" for 1.3, its "intermediate" list for 1.2 with our ECDSA key.
CIPHERSUITES_13 = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
CIPHERS_12 = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"

# Read by Redis only when it starts; a difference in one of these needs a restart.
FIXED_AT_START = frozenset(
    {
        "aclfile",
        "databases",
        "disable-thp",
        "enable-debug-command",
        "enable-module-command",
        "enable-protected-configs",
        "logfile",
        "pidfile",
        "rdbchecksum",
        "tcp-backlog",
        "unixsocket",
        # Protected (enable-protected-configs no): not to be changed over the wire.
        "dbfilename",
        "dir",
    }
)

DATA = "/data"
"""The server's data inside its container."""

# Redis reads the files of all three again when one is set: they change together or not at all.
CERTIFICATE_SETTINGS = ("tls-ca-cert-file", "tls-cert-file", "tls-key-file")

# systemd's unit and the init script each say otherwise than the file.
SET_BY_THE_SERVICE = frozenset({"daemonize"})

# Passwords would show in CONFIG GET; none of these is ever asked for.
NEVER_ASKED = frozenset({"masterauth", "primaryauth", "requirepass", "tls-key-file-pass", "tls-client-key-file-pass"})


@dataclass(frozen=True)
class Section:
    """Settings that belong together, and why they are what they are."""

    why: str
    settings: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """What one server shall be; the defaults are those of group_data/all.py, which says what each means.

    ``certificates`` is the folder of server.crt, server.key and ca.crt, ``data_folder`` where the server may write; sizes
    are bytes, times seconds. In a container there is neither a file for the process id nor one for the log.
    """

    addresses: tuple[str, ...]
    certificates: str
    acl_file: str
    data_folder: str
    maxmemory_bytes: int
    in_container: bool
    pid_file: str = ""
    log_file: str = ""
    port: int = 6380
    tls_minimum_version: str = "1.3"
    tls_client_certificates: str = "required"
    maxmemory_policy: str = "allkeys-lru"
    maxmemory_clients: str = "10%"
    maxclients: int = 1000
    idle_timeout: int = 900
    tcp_keepalive: int = 60
    max_value_bytes: int = 16 * 1024**2
    databases: int = 1
    persistence: str = "off"
    log_level: str = "notice"


def server_sections(plan: ServerPlan) -> tuple[Section, ...]:
    """All sections of redis.conf for one server."""
    modern = plan.tls_minimum_version == "1.3"
    value = plan.max_value_bytes
    return (
        Section(
            "TLS is the only door: there is no plaintext port and no socket file.",
            {
                "port": "0",
                "tls-port": str(plan.port),
                "unixsocket": "",
                # "-": a host that lost IPv6 still starts its Redis.
                "bind": " ".join(f"-{address}" if address == "::1" else address for address in plan.addresses),
                "protected-mode": "yes",
            },
        ),
        Section(
            "Our own CA alone, a certificate from both sides, ciphers with forward secrecy and authentication.",
            {
                "tls-cert-file": f"{plan.certificates}/server.crt",
                "tls-key-file": f"{plan.certificates}/server.key",
                "tls-ca-cert-file": f"{plan.certificates}/ca.crt",
                "tls-auth-clients": "yes" if plan.tls_client_certificates == "required" else "optional",
                "tls-protocols": "TLSv1.3" if modern else "TLSv1.2 TLSv1.3",
                "tls-ciphersuites": CIPHERSUITES_13,
                "tls-ciphers": CIPHERS_12,
                "tls-prefer-server-ciphers": "yes",
                "tls-session-caching": "no",
            },
        ),
        Section(
            "Users and what each may do; refused logins and commands are kept for the monitor to read.",
            {"aclfile": plan.acl_file, "acllog-max-len": "1024", "acl-pubsub-default": "resetchannels"},
        ),
        Section(
            "What an intruder with a login would reach for.",
            {"enable-protected-configs": "no", "enable-debug-command": "no", "enable-module-command": "no"},
        ),
        Section(
            "Limits: one client cannot take the host's memory, its connections or its time.",
            {
                "maxmemory": str(plan.maxmemory_bytes),
                "maxmemory-policy": plan.maxmemory_policy,
                "maxmemory-clients": plan.maxmemory_clients,
                "maxclients": str(plan.maxclients),
                "timeout": str(plan.idle_timeout),
                "tcp-keepalive": str(plan.tcp_keepalive),
                "tcp-backlog": "511",
                "proto-max-bulk-len": str(value),
                "client-query-buffer-limit": str(2 * value),
                "client-output-buffer-limit": f"normal {4 * value} {2 * value} 60 "
                "slave 268435456 67108864 60 pubsub 33554432 8388608 60",
                "databases": str(plan.databases),
            },
        ),
        Section(
            "Eviction, expiry and deletion of large values happen beside the commands, not in their way.",
            {
                "lazyfree-lazy-eviction": "yes",
                "lazyfree-lazy-expire": "yes",
                "lazyfree-lazy-server-del": "yes",
                "lazyfree-lazy-user-del": "yes",
                "disable-thp": "yes",
            },
        ),
        _persistence(plan.persistence, plan.data_folder),
        Section(
            "The process and its log. A crash report would print clients' arguments into the log: off.",
            {
                # In a container the process is the first one, and its log is the engine's.
                "daemonize": "no" if plan.in_container else "yes",
                "pidfile": plan.pid_file,
                "logfile": plan.log_file,
                "loglevel": plan.log_level,
                "crash-log-enabled": "no",
                "crash-memcheck-enabled": "no",
                "slowlog-log-slower-than": "10000",
                "slowlog-max-len": "128",
                "latency-monitor-threshold": "100",
            },
        ),
    )


def _persistence(mode: str, folder: str) -> Section:
    settings = {"dir": folder, "dbfilename": "dump.rdb", "rdbchecksum": "yes", "rdbcompression": "yes"}
    if mode == "off":
        why, more = "A pure cache: nothing is written to disk.", {"save": "", "appendonly": "no"}
    elif mode == "rdb":
        why, more = "Snapshots to disk.", {"save": "3600 1 300 100 60 10000", "appendonly": "no"}
    else:
        why, more = (
            "Every change goes to a file that is flushed each second.",
            {"save": "3600 1 300 100 60 10000", "appendonly": "yes"},
        )
    return Section(why, settings | more | {"appendfsync": "everysec", "stop-writes-on-bgsave-error": "yes"})


def flatten(sections: tuple[Section, ...]) -> dict[str, str]:
    """All settings as one mapping."""
    return {name: value for section in sections for name, value in section.settings.items()}


def line(name: str, value: str) -> str:
    """One line of redis.conf. ``save`` and the buffer limits are lists to CONFIG GET but several directives on file."""
    if name == "client-output-buffer-limit":
        words = value.split(" ")
        return "\n".join(f"{name} {' '.join(words[i : i + 4])}" for i in range(0, len(words), 4))
    if value == "" or (" " in value and name not in ("bind", "save")):
        return f'{name} "{value}"'
    return f"{name} {value}"
