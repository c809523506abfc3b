"""The server that is to be migrated: what is read of it, and what stops a migration before its first stage."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from deploys.migration import legacy
from deploys.migration.legacy import Legacy
from tests.unit.wanted import FakeSite, bundle

GOOD = Legacy(
    ping="PONG",
    info={
        **{"redis_version": "7.0.15", "role": "master", "connected_slaves": "0", "cluster_enabled": "0", "loading": "0"},
        **{"config_file": "/etc/redis/redis.conf", "used_memory": str(100 * 1024**2), "connected_clients": "50"},
        **{"process_id": "77"},
        "db0": "keys=5",
    },
    config={"dir": "/var/lib/redis", "dbfilename": "dump.rdb", "tls-port": "0", "aclfile": ""},
    free=(2**40, 2**40),
    memory=(2**30,),
    main="77",
)
MEMORY = 2 * 1024**3


def test_a_good_server_may_be_migrated() -> None:
    """Debian's server in use has no fault."""
    assert legacy.problem(FakeSite(bundle()), GOOD, MEMORY) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"ping": "nothing is installed"}, "there is no redis-server to migrate"),
        ({"ping": "NOAUTH Authentication required."}, "must contain it as requirepass"),
        ({"info": {"redis_version": "6.0.16"}}, "redis-server 6.0.16 is too old, 7.0 is needed"),
        ({"info": {"role": "slave"}}, "the server replicates"),
        ({"info": {"connected_slaves": "1"}}, "the server replicates"),
        ({"info": {"cluster_enabled": "1"}}, "part of a cluster"),
        ({"info": {"loading": "1"}}, "still loading"),
        ({"info": {"config_file": ""}}, "no configuration file"),
        ({"main": "0"}, "was not started by redis-server.service"),
        ({"users": 2}, "its own users"),
        ({"config": {"aclfile": "/etc/redis/mine.acl"}}, "its own users"),
        ({"config": {"aclfile": "/etc/redis/users.acl"}, "acl_file": True}, "its own users"),
        ({"config": {"tls-port": "6390"}}, "a TLS port already (6390)"),
        ({"config": {"dir": "/srv"}}, "setting dir is /srv, wanted /var/lib/redis"),
        ({"port": 6380}, "choose another redis_tls_port"),
        ({"info": {"db3": "keys=1"}}, "set redis_databases to at least 4"),
        ({"info": {"used_memory": str(2**30)}}, "entries would be evicted"),
        ({"info": {"connected_clients": "950"}}, "redis_maxclients allows 1000"),
        ({"memory": (150 * 1024**2,)}, "not enough memory to test the backup: 150 MiB are free, and a throwaway server with its data"),
        ({"free": (2**40, 100 * 1024**2)}, "there is not enough room for the backup: 100 MiB are free"),
    ],
)
def test_what_cannot_be_migrated(change: dict[str, Any], part: str) -> None:
    """Each server that cannot be moved is refused with the reason and the next step."""
    merged = {name: {**getattr(GOOD, name), **value} if isinstance(value, dict) else value for name, value in change.items()}
    said = legacy.problem(FakeSite(bundle()), replace(GOOD, **merged), MEMORY)  # type: ignore[arg-type]
    assert part in said


def test_what_a_server_says_is_understood() -> None:
    """Its answer, door, words, settings, and what is free in bytes, as the shell prints them."""
    site = FakeSite(bundle())
    server = ["ping PONG", "door 10.0.0.5 6400", "info used_memory 5", "config maxmemory", "config 0"]
    site.answer = (True, [*server, "memory 2048 kB", "users 1", "main 77", "free 10", "free 20"], [])
    found = legacy.inspect(site)  # type: ignore[arg-type]
    assert (found.ping, found.address, found.port, found.users, found.main) == ("PONG", "10.0.0.5", 6400, 1, "77")
    assert (found.info, found.config) == ({"used_memory": "5"}, {"maxmemory": "0"})
    assert (found.free, found.memory) == ((10240, 20480), (2 * 1024**2,))


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        (["ai_cache:op:qa|txt:one", "ai_cache:h:2"], ""),
        ([], ""),
        (["ai_cache:op:qa|txt:one", "sessions", "a \"name"], "2 of 3 keys looked at do not begin with ai_cache:"),
    ],
)
def test_keys_that_the_apps_will_not_reach_are_told(shown: list[str], says: str) -> None:
    """The apps' user may use keys of the cache alone: whoever has others learns it before the first stage. Asked in real shell."""
    script = f"r() {{ printf '%s\\n' {shlex.join(map(json.dumps, shown))}; }}\n{legacy.OTHER_KEYS}"
    lines = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    site = FakeSite(bundle(), answer=(True, ["ping PONG", *lines], []))
    notice = legacy.notice(legacy.inspect(site))  # type: ignore[arg-type]
    assert notice.startswith(says)
    assert bool(notice) is bool(says)
