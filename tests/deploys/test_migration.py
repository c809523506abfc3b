"""A Redis in use, without a password, is moved to a hardened one and back, and nobody who uses it notices."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from itertools import groupby

import pytest

from deploys.migration.window import BACKUP
from redkeep.migration.stages import NAMES
from tests.deploys.crash import MARK, Kill, run_and_kill
from tests.deploys.hoststate import differences, leftovers, tree
from tests.deploys.runner import Deployment
from tests.deploys.stock import (
    NEW_CLIENTS,
    Size,
    contents,
    fill,
    forward,
    found,
    install,
    load,
    migrate_data,
    new_clients,
    readable,
    run_id,
    settle,
)
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "old"
FOREIGN = f"'ai_cache:op:qa|h:{'0' * 32}'"
PLAINTEXT = "systemd-run -q --unit=worker redis-cli SUBSCRIBE news; sleep 1"
# Its own user already, and still no TLS.
MOVED_HALF = """word() { sed -n "s/^$1=//p" /etc/redkeep/cache.env; }
systemd-run -q --unit=worker --setenv=REDISCLI_AUTH="$(word REDIS_PASSWORD)" --setenv=USER="$(word REDIS_USERNAME)" \
    sh -c '(echo PING; sleep 600) | redis-cli --no-auth-warning --user "$USER"'; sleep 1"""
WORKERS = "/usr/local/sbin/redkeep-cli CLIENT LIST | grep -c 'laddr=127.0.0.1:6379 ' || true"
ENDED = "systemctl stop worker; systemctl reset-failed worker 2>/dev/null || true"


@pytest.fixture(scope="module")
def size(request: pytest.FixtureRequest) -> Size:
    return Size(50, 1000, 100_000, True) if request.config.getoption("--soak") else Size(20, 200, 5_000, False)


@pytest.fixture(scope="module")
def site(single: Callable[..., Deployment]) -> Deployment:
    """An inventory for one host, still bare, by a user with sudo."""
    return single(NAME, user="operator")


@pytest.fixture(scope="module")
def host(site: Deployment, lab: Lab) -> Host:
    """Debian's stock Redis, in use by nobody yet."""
    install(lab[NAME])
    return lab[NAME]


@pytest.fixture(scope="module")
def before(host: Host) -> list[str]:
    """The host before any migration."""
    return found(host)


def test_there_and_back_under_load(
    site: Deployment, host: Host, before: list[str], size: Size, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through all stages, with a SIGKILL in the middle of the last one, and all the way back (in the long form: and through
    them again): no operation fails, no value is lost or changed, every TTL is kept within two seconds, the server restarts
    once, and at the end of the way back every file, package, setting and user is as it was.

    While there is a key, clients of our own package work beside those of before: each entry of before, sealed meanwhile by
    migrate-data, is a hit for them, and what they have written themselves is there for the old class after the way back."""
    first = run_id(host)
    with load(host, size) as met:
        forward(site, *NAMES[:4])
        with new_clients(host, size) as beside:
            sealed = migrate_data(site, host)
            forward(site, *NAMES[4:-1])
            assert run_id(host) == first
            run_and_kill(site, Kill("Write the sandbox"), "migrate")
            assert "a migration is under way" in site.run().output
            assert "close validated" in site.run("migrate").ok().output
            assert site.run().ok().changed_operations == 0
            after = run_id(host)
            assert after != first
            back = site.run("rollback", "--data", "stage=access_control").ok()
        returned = migrate_data(site, host, reverse=True)
        written = beside.seen["written"]
        assert {name: found["summary"] for name, found in readable(host, list(written)).items()} == written
        further = site.run("rollback", "--data", "stage=preparation").ok()
        assert re.findall(r"(\w+) rolled back", back.output + further.output) == list(reversed(NAMES))
        assert differences(before, found(host)) == []
        if size.again:
            forward(site, *NAMES)
        assert run_id(host) == after
    with capsys.disabled():
        print(f"\n{size}: {met.seen}\nsealed: {beside.seen}\nthere: {sealed}\nback: {returned}")
    assert met.seen["failed"] == beside.seen["failed"] == []
    assert beside.seen["operations"] > 3 * NEW_CLIENTS
    assert sealed.readable >= size.entries
    assert returned.returned >= size.entries + NEW_CLIENTS
    assert (sealed.unreadable, returned.unreadable, returned.without_old_name, returned.left) == (0, 0, 0, 0)
    assert met.seen["lost"] == 0
    assert met.seen["ttl_off"] < 2
    assert met.seen["operations"] > size.rate
    # From no password to one, to TLS, and back to none.
    ways = ["default:6379", "cache_service:6379", "cache_service:6380", "cache_service:6379", "default:6379"]
    assert [way for way, _ in groupby(met.seen["ways"])][:5] == ways
    assert leftovers(host) == []
    journal = [json.loads(line) for line in host.check("cat /var/lib/redkeep/migration/journal.jsonl").splitlines()]
    assert {entry["event"] for entry in journal} == {"begun", "action", "validated", "rolling back", "rolled back"}
    assert all(re.fullmatch(r"\S+@\S+", entry["who"]) and entry["time"] for entry in journal)
    if size.again:
        assert site.run().ok().changed_operations == 0
        site.run("rollback", "--data", "stage=preparation").ok()
    assert "deploys/migrate.py migrates a server in use" in site.run().output


def test_what_is_refused(site: Deployment, host: Host) -> None:
    """A stage that does not exist or is not due, a server of another kind, no room, a client that has not moved, a second
    run, another verb in between: one sentence with the next step, and nothing is changed."""
    fill(host)
    assert "did you mean preparation? The stages are" in site.run("migrate", "--data", "stage=prepartion").output
    assert "tls is out of order; preparation comes first" in site.run("migrate", "--data", "stage=tls").output
    assert "preparation is not done, so there is nothing to undo" in site.run("rollback", "--data", "stage=preparation").output
    assert "nothing to undo" in site.run("rollback").ok().output
    host.check("redis-cli REPLICAOF 127.0.0.1 6399")
    assert "the server replicates" in site.run("migrate").output
    host.check("redis-cli REPLICAOF NO ONE")
    forward(site, *NAMES[:3])
    assert "a migration is under way" in site.run().output
    assert "3 of 6 stages done, the last is tls" in site.run("status").ok().output
    host.check(PLAINTEXT)
    try:
        said = site.run("migrate")
        assert said.code != 0
        assert "1 client still uses plaintext: 127.0.0.1:" in said.output
        assert "(user default, port 6379, connected for" in said.output
    finally:
        host.check(ENDED)
    host.check(f"printf '\\301\\001\\001kkkkkkkk%060d' 0 | redis-cli -x SET {FOREIGN}")
    said = site.run("migrate")
    assert said.code != 0
    assert "not in the key ring (at least 1 with key 6b6b6b6b6b6b6b6b), so they would be misses: bring back the secrets" in said.output
    assert "REDIS_ENCRYPTION_KEYS" not in host.check("cat /etc/redkeep/cache.env")
    host.check(f"redis-cli DEL {FOREIGN}")
    first = site.start("migrate")
    assert first.stdout is not None
    next(line for line in first.stdout if "migrate application_encryption" in line)
    next(line for line in first.stdout if line.startswith(MARK))
    # It holds the lock, and stays where it is until the second one has been told.
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        second = site.run("migrate")
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert second.code != 0
    assert "is running this migration (migrate application_encryption" in second.output
    assert "application_encryption validated" in first.communicate(timeout=120)[0]
    assert "stragglers: the only value is end" in site.run("migrate", "--data", "stragglers=stop").output
    assert "old_backup: give keep or delete" in site.run("migrate", "--data", "old_backup=yes").output


def test_what_a_caller_may_choose(site: Deployment, host: Host, before: list[str]) -> None:
    """Clients that never move lose their session when their door closes, and no earlier; the old backup is kept; a dry run of
    the way back tells it and changes nothing."""
    settle(site, host, 4)
    keys = contents(host)
    host.check(PLAINTEXT)
    assert (
        "1 client still logs in as a previous user"
        in site.run("migrate", "--data", "stage=access_control", "--dry", yes=False).ok().output
    )
    assert host.check(WORKERS) == "1"
    assert "access_control validated" in site.run("migrate", "--data", "stragglers=end").ok().output
    assert host.check(WORKERS) == "0"
    host.check(f"{ENDED}; {MOVED_HALF}")
    assert "close validated" in site.run("migrate", "--data", "stragglers=end", "--data", "old_backup=keep").ok().output
    assert host.check(WORKERS) == "0"
    assert host.check(f"{ENDED}; head -c 5 {BACKUP}") == "REDIS"
    state = found(host), tree(host, "/var/lib/redkeep")
    plan = site.run("rollback", "--data", "stage=access_control", "--dry", yes=False).ok().output
    assert re.findall(r"would rollback (\w+):", plan) == ["close", "access_control"]
    assert "would repair: running setting port is '0', before the migration '6379'" in plan
    assert (found(host), tree(host, "/var/lib/redkeep")) == state
    site.run("rollback", "--data", "stage=preparation").ok()
    assert differences(before, found(host)) == []
    assert contents(host) == keys
