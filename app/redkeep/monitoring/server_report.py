"""What a server says of itself: INFO and CLIENT LIST, read into plain values. Nothing here connects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from redkeep.monitoring.words import harmless

_DENIALS: Final = ("acl_access_denied_auth", "acl_access_denied_cmd", "acl_access_denied_key", "acl_access_denied_channel")


def parse_info(reply: object) -> dict[str, str]:
    """The fields of INFO."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


class Refusals(NamedTuple):
    """The server's own counters since its start (or CONFIG RESETSTAT): refused logins, and everything its ACL refused."""

    logins: int
    all: int


def refusals(info: Mapping[str, str]) -> Refusals:
    """From `acl_access_denied_*` (Redis 7.2, Valkey 7.2), else from the error counters of 7.0."""
    if _DENIALS[0] in info:
        numbers = [_number(info.get(name)) for name in _DENIALS]
        return Refusals(numbers[0], sum(numbers))
    wrong, denied = (errors_of(info).get(code, 0) for code in ("WRONGPASS", "NOPERM"))
    return Refusals(wrong, wrong + denied)


def errors_of(info: Mapping[str, str]) -> dict[str, int]:
    """How often the server answered with each error code: {"NOAUTH": 3, ...}."""
    found = {}
    for name, value in info.items():
        if name.startswith("errorstat_"):
            found[harmless(name.removeprefix("errorstat_"), limit=24)] = _number(value.partition("count=")[2])
    return found


def figures(info: Mapping[str, str]) -> dict[str, Any]:
    """The figures of one node: bytes, counts, seconds; None for what it did not say."""
    hits, misses = _number(info.get("keyspace_hits")), _number(info.get("keyspace_misses"))
    engine = "valkey" if "valkey_version" in info else "redis"
    return {
        "engine": engine,
        "version": harmless(info.get("valkey_version") or info.get("redis_version") or "?", limit=20),
        "role": harmless(info.get("role") or "?", limit=20),
        "uptime_seconds": _maybe(info.get("uptime_in_seconds")),
        "clients": _maybe(info.get("connected_clients")),
        "clients_limit": _maybe(info.get("maxclients")),
        "memory_used_bytes": _maybe(info.get("used_memory")),
        "memory_limit_bytes": _maybe(info.get("maxmemory")) or None,
        "operations_per_second": _maybe(info.get("instantaneous_ops_per_sec")),
        "commands_total": _maybe(info.get("total_commands_processed")),
        "connections_total": _maybe(info.get("total_connections_received")),
        "connections_rejected_total": _maybe(info.get("rejected_connections")),
        "hits_total": hits,
        "misses_total": misses,
        "hit_ratio": round(hits / (hits + misses), 4) if hits + misses else None,
        "evicted_total": _maybe(info.get("evicted_keys")),
        "expired_total": _maybe(info.get("expired_keys")),
        "keys": sum(_number(value[5:].partition(",")[0]) for name, value in info.items() if _is_database(name, value)),
        "replicas": _maybe(info.get("connected_slaves")),
        "link_to_primary": harmless(info["master_link_status"], limit=20) if "master_link_status" in info else None,
        "errors": errors_of(info),
    }


class ClientLine(NamedTuple):
    """One connection: its user, its address without the port, and the name it gave itself."""

    user: str
    address: str
    name: str


def parse_clients(reply: object) -> Counter[ClientLine]:
    """The connections of CLIENT LIST, counted; those of replication links and without a user count as user "?"."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return Counter(client_of(line) for line in text.splitlines() if line)


class Connection(NamedTuple):
    """One line of CLIENT LIST: the user's name as the server has it, and the server's own port; 0 for a Unix socket."""

    user: str
    port: int


def connections(reply: object) -> list[Connection]:
    """Everybody who is connected to the server; its own link to a primary is none. Not logged in shows as `default`."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    found = []
    for line in text.splitlines():
        fields = _fields(line)
        port = fields.get("laddr", "").rpartition(":")[2]
        if fields and "M" not in fields.get("flags", ""):
            found.append(Connection(fields.get("user", ""), int(port) if port.isdigit() else 0))
    return found


def client_of(line: str) -> ClientLine:
    """A line of CLIENT LIST, or the client-info of ACL LOG: `id=3 addr=127.0.0.1:4711 ... name=x ... user=y ...`."""
    fields = _fields(line)
    return ClientLine(harmless(fields.get("user") or "?"), address_of(fields.get("addr", "")), harmless(fields.get("name", "")))


def address_of(text: str) -> str:
    """The address without its port: `10.0.0.5:4711`, `[::1]:4711`, or a Unix socket's path."""
    host, colon, port = text.rpartition(":")
    return harmless(host.strip("[]") if colon and port.isdigit() else text)


def _fields(line: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in line.split(" ") if "=" in part)


def _is_database(name: str, value: str) -> bool:
    return name.startswith("db") and value.startswith("keys=")


def _maybe(text: str | None) -> int | None:
    return None if text is None else _number(text)


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
