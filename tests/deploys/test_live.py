"""Who is connected stays connected: no change that a deploy makes to a running server costs a client a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deploys.credentials import label
from redkeep.crypto.store import SecretStore
from tests.deploys.clients import running
from tests.deploys.conftest import KINDS
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

CLI = "/usr/local/sbin/redkeep-cli"
CLIENTS = 5

# Run on the host by the shipped package's Python: plain redis-py, one connection a client, no retry of any kind.
CLIENT = """
import json, os, sys, threading, time
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

env = dict(line.rstrip("\\n").split("=", 1) for line in open("/etc/redkeep/cache.env") if line[0] not in "#\\n")
folder, clients = sys.argv[1], int(sys.argv[2])
counts = [dict(commands=0, failed=[], slowest=0.0, ids=[]) for _ in range(clients)]

def work(number, mine):
    link = redis.Redis.from_url(
        env["REDIS_URL"], username=env["REDIS_USERNAME"], password=env["REDIS_PASSWORD"], ssl_ca_certs=env["REDIS_TLS_CA_FILE"],
        ssl_certfile=env["REDIS_TLS_CERT_FILE"], ssl_keyfile=env["REDIS_TLS_KEY_FILE"], single_connection_client=True,
        retry=Retry(NoBackoff(), 0), socket_timeout=10,
    )
    key = f"ai_cache:live:{number}"
    mine["ids"].append(link.client_id())
    while not os.path.exists(folder + "/stop"):
        began = time.monotonic()
        try:
            value = str(mine["commands"]).encode()
            link.set(key, value, ex=60)
            if link.get(key) != value:
                mine["failed"].append("another value came back")
        except Exception as error:
            mine["failed"].append(type(error).__name__ + ": " + str(error)[:100])
            time.sleep(0.2)
        mine["slowest"] = max(mine["slowest"], time.monotonic() - began)
        mine["commands"] += 2
        if mine["commands"] == 2:
            open(f"{folder}/ready{number}", "w").close()
        time.sleep(0.005)
    mine["ids"].append(link.client_id())

threads = [threading.Thread(target=work, args=(n, c)) for n, c in enumerate(counts)]
[t.start() for t in threads]
[t.join() for t in threads]
print(json.dumps(counts))
"""


@dataclass
class Load:
    """What the clients saw."""

    commands: int = 0
    failed: tuple[str, ...] = ()
    dropped: int = 0
    slowest: float = 0.0


@contextmanager
def connected(host: Host) -> Iterator[Load]:
    """Clients that write and read all the time, from before the block to after it."""
    load = Load()
    with running(host, CLIENT, str(CLIENTS), clients=CLIENTS) as printed:
        yield load
    seen = json.loads(printed["out"])
    load.commands = sum(client["commands"] for client in seen)
    load.failed = tuple(text for client in seen for text in client["failed"])
    load.dropped = sum(len(set(client["ids"])) != 1 for client in seen)
    load.slowest = max(client["slowest"] for client in seen)


def run_id(host: Host) -> str:
    """Changes when the server's process does."""
    return host.check(f"{CLI} INFO server | grep run_id")


def served(host: Host) -> str:
    """Fingerprint of the certificate that a new connection is shown."""
    operator = "/etc/redkeep/operator/client"
    return host.check(
        f"echo | openssl s_client -connect 127.0.0.1:6380 -cert {operator}.crt -key {operator}.key 2>/dev/null"
        " | openssl x509 -noout -fingerprint -sha256"
    )


@pytest.fixture(params=["redis70", "redis80"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str, deployed: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """A deployment; afterwards its secrets are as they were, and its hosts too."""
    deployment = deployed(kind)
    file = deployment.secrets / "secrets.json"
    content = file.read_bytes()
    yield deployment
    if file.read_bytes() != content:
        file.write_bytes(content)
    if deployment.run("status").code:
        deployment.run().ok()


def test_nobody_is_dropped(kind: str, site: Deployment, lab: Lab) -> None:
    """Through a repaired user, a changed setting, a renewed certificate, a second authority and an idle deploy, five
    clients lose no connection and no command; the process stays the same, and each change is in force at the end."""
    host: Host = lab[KINDS[kind]["groups"]["redis"][0]]  # type: ignore[index]
    store = SecretStore.open(site.secrets)
    before, certificate = run_id(host), served(host)
    with connected(host) as load:
        host.check(f"{CLI} ACL SETUSER cache_service +flushall")
        mended = site.run().ok().mended
        assert any("+flushall" in what for what in mended[host.name])

        host.check(f"{CLI} CONFIG SET maxclients 100 timeout 100")
        site.run().ok()
        assert host.check(f"{CLI} CONFIG GET maxclients | tail -1") == "1000"

        store.renew(label("server", host.name))
        site.run().ok()
        renewed = served(host)
        assert renewed != certificate

        store.add_authority()
        site.run().ok()
        assert host.check("grep -c BEGIN /etc/redkeep/operator/ca.crt") == "2"
        assert served(host) == renewed

        assert site.run().ok().changed_operations == 0
    assert load.failed == ()
    assert load.dropped == 0
    assert load.commands > 100
    assert load.slowest < 5
    assert run_id(host) == before


@pytest.mark.soak
def test_a_new_authority_signs_without_a_gap(kind: str, site: Deployment, lab: Lab) -> None:
    """The whole change of authority: both trusted, then every certificate from the new one, then the old one gone; the
    clients that are connected stay, and each new connection in between is let in."""
    host: Host = lab[KINDS[kind]["groups"]["redis"][0]]  # type: ignore[index]
    store = SecretStore.open(site.secrets)
    before = run_id(host)
    with connected(host) as load:
        store.add_authority()
        site.run().ok()
        for name in store.leaves():
            store.reissue(name)
        site.run().ok()
        for app in KINDS[kind]["groups"]["app"]:  # type: ignore[index]
            assert lab[app].run("redkeep status").code == 0
        store.retire_authorities()
        site.run().ok()
        for app in KINDS[kind]["groups"]["app"]:  # type: ignore[index]
            assert lab[app].run("redkeep status").code == 0
    assert load.failed == ()
    assert load.dropped == 0
    assert run_id(host) == before
