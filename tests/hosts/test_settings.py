"""The running server's settings."""

from __future__ import annotations

import pytest

from .machine import Machine

MEBIBYTE = 1024**2


def test_configuration_is_managed(redis_host: Machine) -> None:
    """redis.conf, users' policy and the OpenSSL policy begin by saying who writes them."""
    for name in (f"{redis_host.engine}.conf", "openssl.cnf"):
        assert redis_host.read(f"{redis_host.folder}/{name}").startswith("# Managed by redkeep"), name


def test_server_runs_from_the_managed_configuration(redis_host: Machine) -> None:
    """The running server was started from the managed file and the managed users."""
    assert f"config_file:{redis_host.folder}/{redis_host.engine}.conf" in redis_host.redis("INFO server")
    assert redis_host.config("aclfile")["aclfile"] == f"{redis_host.folder}/users.acl"


SAFE = {
    "port": "0",
    "unixsocket": "",
    "protected-mode": "yes",
    "enable-protected-configs": "no",
    "enable-debug-command": "no",
    "enable-module-command": "no",
    "tls-session-caching": "no",
    "tls-prefer-server-ciphers": "yes",
    "tls-ca-cert-dir": "",
    "acl-pubsub-default": "resetchannels",
    "crash-log-enabled": "no",
    "crash-memcheck-enabled": "no",
    "cluster-enabled": "no",
}


@pytest.mark.parametrize("name", SAFE)
def test_setting_is_safe(redis_host: Machine, name: str) -> None:
    """The running server has the safe value."""
    assert redis_host.config(*SAFE)[name] == SAFE[name]


def test_refusals_are_kept(redis_host: Machine) -> None:
    """ACL LOG holds at least 1024 entries, so that one attack does not push out another."""
    assert int(redis_host.config("acllog-max-len")["acllog-max-len"]) >= 1024


def test_memory_is_bounded(redis_host: Machine) -> None:
    """maxmemory is set, below nine tenths of the host's memory, and as much as the knob says."""
    found = int(redis_host.config("maxmemory")["maxmemory"])
    knob = redis_host.wanted["redis_maxmemory"].lower()
    units = {"kb": 1024, "mb": MEBIBYTE, "gb": 1024 * MEBIBYTE}
    wanted = redis_host.memory * int(knob[:-1]) // 100 if knob.endswith("%") else int(knob[:-2]) * units[knob[-2:]]
    assert 0 < found <= redis_host.memory * 9 // 10
    assert abs(found - wanted) <= 2 * MEBIBYTE


def test_knobs_are_applied(redis_host: Machine) -> None:
    """Each limit that is a knob has the knob's value in the running server."""
    value = int(redis_host.wanted["redis_max_value_bytes"])
    wanted = {
        "maxmemory-policy": redis_host.wanted["redis_maxmemory_policy"],
        "maxmemory-clients": redis_host.wanted["redis_maxmemory_clients"],
        "maxclients": redis_host.wanted["redis_maxclients"],
        "timeout": redis_host.wanted["redis_idle_timeout"],
        "tcp-keepalive": redis_host.wanted["redis_tcp_keepalive"],
        "databases": redis_host.wanted["redis_databases"],
        "loglevel": redis_host.wanted["redis_log_level"],
        "tls-port": redis_host.wanted.port,
        "tls-auth-clients": {"required": "yes", "optional": "optional"}[redis_host.wanted["tls_client_certificates"]],
        "proto-max-bulk-len": value,
    }
    assert redis_host.config(*wanted) == {name: str(setting) for name, setting in wanted.items()}


def test_a_request_is_bounded(redis_host: Machine) -> None:
    """A single value and a client's whole query are far below Redis' own 512 MiB and 1 GiB."""
    found = redis_host.config("proto-max-bulk-len", "client-query-buffer-limit")
    value = int(found["proto-max-bulk-len"])
    assert value == redis_host.wanted["redis_max_value_bytes"]
    assert value <= int(found["client-query-buffer-limit"]) <= 4 * value


def test_replies_are_bounded(redis_host: Machine) -> None:
    """Every class of client has a hard and a soft limit on what waits to be sent to it: none is unlimited (0)."""
    words = redis_host.config("client-output-buffer-limit")["client-output-buffer-limit"].split()
    limits = {words[i]: [int(w) for w in words[i + 1 : i + 4]] for i in range(0, len(words), 4)}
    assert limits.keys() == {"normal", "slave", "pubsub"}
    assert all(number > 0 for numbers in limits.values() for number in numbers)


@pytest.mark.only(persistence="off")
def test_cache_writes_nothing_to_disk(redis_host: Machine) -> None:
    """A pure cache takes no snapshot and keeps no append-only file."""
    assert redis_host.config("save", "appendonly") == {"save": "", "appendonly": "no"}


@pytest.mark.only(persistence="off")
def test_cache_finds_nothing_on_disk(redis_host: Machine) -> None:
    """A pure cache starts empty: no old snapshot or append-only file is there for a start to load, or a thief to read."""
    assert redis_host.config("dir")["dir"] == redis_host.data[0]
    assert redis_host.lines(f"find {redis_host.data[1]} -type f") == []


@pytest.mark.only(persistence="rdb")
def test_snapshots_are_taken(redis_host: Machine) -> None:
    """With snapshots on, the server takes them, and refuses writes when the disk does not."""
    found = redis_host.config("save", "appendonly", "stop-writes-on-bgsave-error")
    assert found["save"]
    assert found["appendonly"] == "no"
    assert found["stop-writes-on-bgsave-error"] == "yes"


@pytest.mark.only(persistence="aof")
def test_every_change_is_logged(redis_host: Machine) -> None:
    """With the append-only file on, changes are flushed each second."""
    assert redis_host.config("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}


def test_slow_and_late_commands_are_noted(redis_host: Machine) -> None:
    """The slow log and the latency monitor are on."""
    found = {
        name: int(value)
        for name, value in redis_host.config("slowlog-log-slower-than", "slowlog-max-len", "latency-monitor-threshold").items()
    }
    assert all(value > 0 for value in found.values())


def test_no_password_stands_in_the_configuration(redis_host: Machine) -> None:
    """redis.conf has no requirepass, no password of a replica in clear for a single server, and no rename-command."""
    text = redis_host.read(f"{redis_host.folder}/{redis_host.engine}.conf")
    names = {line.split()[0].lower() for line in text.splitlines() if line.strip() and not line.startswith("#")}
    assert names & {"requirepass", "masterauth", "primaryauth", "user", "rename-command", "include", "loadmodule"} == set()


def test_file_says_what_runs(redis_host: Machine) -> None:
    """Each setting of the file has that value in the running server: a restart changes nothing."""
    text = redis_host.read(f"{redis_host.folder}/{redis_host.engine}.conf")
    on_disk: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name and not name.startswith("#"):
            on_disk.setdefault(name, []).append(value.strip('"'))
    del on_disk["daemonize"]  # the unit and the init script each decide that
    wanted = {name: " ".join(values) for name, values in on_disk.items()}
    running = redis_host.config(*wanted)
    assert {name: running.get(name) for name in wanted} == wanted


def test_no_module_is_loaded(redis_host: Machine) -> None:
    """The server has no module but the one built into Redis 8 (asked by INFO: not even the operator may use MODULE)."""
    lines = [line for line in redis_host.redis("INFO modules") if line.startswith("module:")]
    names = {line.partition("name=")[2].partition(",")[0] for line in lines}
    assert names <= ({"vectorset"} if redis_host.engine == "redis" and redis_host.version >= (8, 0) else set())
