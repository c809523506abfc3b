"""A Redis in use, without a password, is moved to a hardened one and back, and nobody who uses it notices."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from redkeep.migration.stages import NAMES
from tests.deploys.crash import MARK, Kill, kill_at, run_and_kill
from tests.deploys.hoststate import leftovers, tree
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "old"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install redis-server python3-redis >/dev/null 2>&1; redis-cli PING | grep -q PONG"
APP = Path(__file__).with_name("old_app.py")
KEYS = "for i in 1 2 3; do redis-cli SETEX ai_cache:op:qa:$i 7200 value$i; done; redis-cli HSET sessions a 1 b 2"
PLAINTEXT = "systemd-run -q --unit=worker redis-cli SUBSCRIBE news; sleep 1"
ENDED = "systemctl stop worker; systemctl reset-failed worker 2>/dev/null || true"


def found(host: Host) -> list[str]:
    """What the way back must restore: files, packages, running settings, users; what only time changes is left out."""
    packages = host.run("dpkg-query -W -f 'package|${Package} ${db:Status-Status}\\n'").out.splitlines()
    settings = host.check("redis-cli CONFIG GET '*' | paste - -").splitlines()
    # Read only when the server starts: the process was started under the wanted ones, and keeps them until the next start.
    # So is the number of open files, which bounds maxclients.
    kept = ("aclfile", "acl-pubsub-default", "databases", "disable-thp", "enable-", "maxclients", "rdbchecksum", "tcp-backlog")
    settings = sorted(line.strip() for line in settings if not line.startswith(kept))
    # The word for what is the default anyway is told of a user that was ever set.
    users = host.check("redis-cli ACL LIST").replace(" sanitize-payload", "").splitlines()
    return tree(host, "/etc", "/usr/local", "/opt") + packages + settings + users


@dataclass(frozen=True)
class Size:
    """Of the load: connections, operations a second in all, entries of before; and whether the way is gone again."""

    clients: int
    rate: int
    entries: int
    again: bool


@dataclass
class Load:
    """What the clients saw; filled when the block ends."""

    seen: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def size(request: pytest.FixtureRequest) -> Size:
    return Size(50, 1000, 100_000, True) if request.config.getoption("--soak") else Size(20, 200, 5_000, False)


@pytest.fixture(scope="module")
def site(single: Callable[..., Deployment]) -> Deployment:
    """An inventory for one host, still bare."""
    return single(NAME)


@pytest.fixture(scope="module")
def host(site: Deployment, lab: Lab) -> Host:
    """Debian's stock Redis, in use by nobody yet."""
    lab[NAME].check(INSTALL)
    return lab[NAME]


@pytest.fixture(scope="module")
def before(host: Host) -> list[str]:
    """The host before any migration."""
    return found(host)


@contextmanager
def load(host: Host, size: Size) -> Iterator[Load]:
    """The application of before, at work from before the block to after it."""
    host.put("/root/old_app.py", APP.read_text())
    host.check("rm -rf /run/old; mkdir /run/old")
    argv = ["docker", "exec", host.container, "python3", "/root/old_app.py", "/run/old"]
    argv += [str(size.clients), str(size.rate), str(size.entries)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    result = Load()
    try:
        host.check(
            f"for i in $(seq 600); do [ $(ls /run/old | grep -c ready) = {size.clients} ] && exit 0; sleep 0.1; done; exit 1"
        )
        yield result
    finally:
        host.check("touch /run/old/stop")
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    result.seen = json.loads(out)


def run_id(host: Host) -> str:
    """Changes when the server's process does."""
    command = "$([ -x /usr/local/sbin/redkeep-cli ] && echo redkeep-cli || echo redis-cli) INFO server | grep run_id"
    return host.check(f"PATH=$PATH:/usr/local/sbin; {command}")


def forward(site: Deployment, *stages: str) -> None:
    for stage in stages:
        assert f"{stage} validated" in site.run("migrate", "--data", f"stage={stage}").ok().output


def test_there_and_back_under_load(
    site: Deployment, host: Host, before: list[str], size: Size, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through all stages, with a SIGKILL in the middle of the last one, and all the way back (in the long form: and through
    them again): no operation fails, no value is lost or changed, every TTL is kept within two seconds, the server restarts
    once, and at the end of the way back every file, package, setting and user is as it was."""
    first = run_id(host)
    with load(host, size) as met:
        forward(site, *NAMES[:-1])
        assert run_id(host) == first
        run_and_kill(site, Kill("Write the sandbox"), "migrate")
        assert "a migration is under way" in site.run().output
        assert "close validated" in site.run("migrate").ok().output
        assert site.run().ok().changed_operations == 0
        after = run_id(host)
        assert after != first
        back = site.run("rollback", "--data", "stage=preparation").ok()
        assert re.findall(r"(\w+) rolled back", back.output) == list(reversed(NAMES))
        assert found(host) == before
        if size.again:
            forward(site, *NAMES)
        assert run_id(host) == after
    with capsys.disabled():
        print(f"\n{size}: {met.seen}")
    assert met.seen["failed"] == []
    assert met.seen["lost"] == 0
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
    assert "deploys/migrate.py moves a server in use" in site.run().output


def test_what_is_refused(site: Deployment, host: Host) -> None:
    """A stage that does not exist or is not due, a server of another kind, no room, a client that has not moved, a second
    run, another verb in between: one sentence with the next step, and nothing is changed."""
    host.check(KEYS)
    assert "did you mean preparation? The stages are" in site.run("migrate", "--data", "stage=prepartion").output
    assert "tls is out of order; preparation comes first" in site.run("migrate", "--data", "stage=tls").output
    assert "preparation is not done, so there is nothing to undo" in site.run("rollback", "--data", "stage=preparation").output
    assert "nothing to go back from" in site.run("rollback").ok().output
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
        assert "1 client still speaks plaintext: 127.0.0.1:" in said.output
        assert "(user default, port 6379, connected for" in said.output
    finally:
        host.check(ENDED)
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
    assert "is at work on this migration (migrate application_encryption" in second.output
    assert "application_encryption validated" in first.communicate(timeout=120)[0]
    site.run("rollback", "--data", "stage=preparation").ok()


@pytest.mark.soak
def test_killed_at_every_step_and_at_random(site: Deployment, host: Host, before: list[str]) -> None:
    """SIGKILL at the beginning of every operation on the way forward and back, and at 50 random moments: run again, the
    stage is done, or undone; at the end the configuration is byte for byte the one of before and every key is there."""
    host.check(KEYS)
    keys = host.check("redis-cli DBSIZE")
    kills = 0
    for verb in ("migrate", "rollback"):
        for _ in NAMES:
            number = 0
            while kill_at(site, number, 0, verb):
                number, kills = number + 1, kills + 1
    chance = random.Random(7)  # noqa: S311 - moments, not secrets
    for _ in range(50):
        verb = chance.choice(("migrate", "migrate", "rollback"))
        kills += kill_at(site, chance.randrange(8), chance.randrange(1500), verb)
    while "nothing is due" not in site.run("migrate").ok().output:
        pass
    assert site.run().ok().changed_operations == 0
    assert host.check("/usr/local/sbin/redkeep-cli DBSIZE") == keys
    site.run("rollback", "--data", "stage=preparation").ok()
    print(f"{kills} kills")
    assert found(host) == before
    assert host.check("redis-cli DBSIZE") == keys
