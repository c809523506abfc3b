"""A distribution's stock server in use: installed and filled, its application at work, and what it is compared by."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploys.migration.window import JOURNAL
from redkeep.crypto.store import SecretStore
from redkeep.migration.counts import Counts
from redkeep.migration.journal import Position, parse, position
from redkeep.migration.stages import NAMES
from tests.deploys.clients import running
from tests.deploys.hoststate import tree
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host

# Whoever has the way in: ours while a migration is under way, the distribution's before and after.
CLI = "$(PATH=$PATH:/usr/local/sbin; command -v redkeep-cli || command -v redis-cli || command -v valkey-cli)"
APP = Path(__file__).with_name("old_app.py")
NEW_APP = Path(__file__).with_name("new_app.py")
NEW_CLIENTS = 4
KEYS = f"""seq 1000 | awk '{{ printf "SETEX \\"ai_cache:op:qa|txt:question %d\\" %d \\"raw:{{%d}}\\"\\n", $1, 86400 + $1, $1 }}' |
{CLI} >/dev/null
{CLI} HSET sessions a 1 b 2 >/dev/null; {CLI} RPUSH queue one two three >/dev/null; {CLI} SET "a name" "a value" >/dev/null"""
# What a key of another type answers to GET is the same before and after, too.
CONTENTS = f"""{{ {CLI} --scan | LC_ALL=C sort | awk '{{ printf "TYPE \\"%s\\"\\nPEXPIRETIME \\"%s\\"\\nGET \\"%s\\"\\n", $0, $0, $0 }}' | {CLI}
{CLI} HGETALL sessions; {CLI} LRANGE queue 0 -1; }} | sha256sum; {CLI} DBSIZE"""


def install(host: Host, engine: str = "redis") -> None:
    """The server as the distribution has it, running, and the client library of the application."""
    start = f"{engine}-cli PING 2>/dev/null | grep -q PONG || service {engine}-server start >/dev/null 2>&1"
    host.check(
        f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {engine}-server python3-redis >/dev/null 2>&1; {start}\n"
        f"for i in $(seq 50); do {engine}-cli PING 2>/dev/null | grep -q PONG && exit 0; sleep 0.1; done; exit 1"
    )


def fill(host: Host) -> str:
    """Some keys of several types, with and without a TTL; and what `contents` is from now on."""
    host.check(KEYS)
    return contents(host)


def contents(host: Host) -> str:
    """Every key with its value and the moment it expires, as one digest; and their number."""
    return host.check(CONTENTS)


def found(host: Host) -> list[str]:
    """What the way back must restore: files, packages, running settings, users; what only time changes is left out."""
    packages = host.run("dpkg-query -W -f 'package|${Package} ${db:Status-Status}\\n'").out.splitlines()
    settings = host.check(f"{CLI} CONFIG GET '*' | paste - -").splitlines()
    # Read only when the server starts: the process was started under the wanted ones, and keeps them until the next start.
    # So is the number of open files, which bounds maxclients.
    kept = ("aclfile", "acl-pubsub-default", "databases", "disable-thp", "enable-", "maxclients", "rdbchecksum", "tcp-backlog")
    settings = sorted(line.strip() for line in settings if not line.startswith(kept))
    # The word for what is the default anyway is told of a user that was ever set.
    users = host.check(f"{CLI} ACL LIST").replace(" sanitize-payload", "").splitlines()
    return tree(host, "/etc", "/usr/local", "/opt") + packages + settings + users


def run_id(host: Host) -> str:
    """Changes when the server's process does."""
    return host.check(f"{CLI} INFO server | grep run_id")


def forward(site: Deployment, *stages: str) -> None:
    """Through these stages, one run each."""
    for stage in stages:
        assert f"{stage} validated" in site.run("migrate", "--data", f"stage={stage}").ok().output


def standing(host: Host) -> Position:
    """Where the migration of a host stands by its journal; no stage was left out."""
    where = position(parse(host.run(f"cat {JOURNAL}").out))
    assert where.done == NAMES[: len(where.done)]
    return where


def settle(site: Deployment, host: Host, stages: int) -> None:
    """To that number of stages done, forward or back, and none begun."""
    while len((where := standing(host)).done) != stages or where.begun:
        site.run("migrate" if len(where.done) < stages else "rollback").ok()


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
            f"for i in $(seq 1200); do [ $(ls /run/old | grep -c ready) = {size.clients} ] && exit 0; sleep 0.1; done; exit 1"
        )
        yield result
    finally:
        host.check("touch /run/old/stop")
        out, errors = process.communicate(timeout=300)
        host.check("rm -rf /run/old /root/old_app.py")
    assert process.returncode == 0, errors
    result.seen = json.loads(out)


@contextmanager
def new_clients(host: Host, size: Size) -> Iterator[Load]:
    """Some clients of our own package beside the application of before, once its settings have the key; what they saw is known when
    the block ends."""
    result = Load()
    with running(host, NEW_APP.read_text(), str(NEW_CLIENTS), str(size.entries), clients=NEW_CLIENTS) as printed:
        yield result
    result.seen = json.loads(printed["out"])


def migrate_data(site: Deployment, host: Host, *, reverse: bool = False) -> Counts:
    """`redkeep migrate-data` at its own pace, beside the load. From now on, or until now, the application of before may find nothing."""
    password = SecretStore.open(site.secrets).password("cache_janitor")
    host.check("touch /run/old/sealed")
    variable = f"REDIS_JANITOR_PASSWORD={shlex.quote(password)}"
    run = host.run(f"{variable} redkeep migrate-data --json --state /run/old/moving.json {'--reverse' if reverse else ''}")
    if reverse:
        host.check("rm /run/old/sealed")
    # 1: the application of before has written in the meantime.
    assert run.code in (0, 1), run
    return Counts(**json.loads(run.out))


def readable(host: Host, names: list[str]) -> dict[str, Any]:
    """What the old class finds under these names: plain JSON."""
    return {name: json.loads(host.check(f"{CLI} GET {shlex.quote(name)}")) for name in names}
