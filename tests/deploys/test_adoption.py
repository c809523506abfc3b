"""A Redis that was there before: taken over when nobody uses it, left alone when somebody does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.deploys.hoststate import untouched
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "stock"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install redis-server >/dev/null 2>&1; redis-cli PING | grep -q PONG"
FILL = "for i in 1 2 3 4 5 6 7 8; do redis-cli SET key$i $(head -c 600 /dev/urandom | base64 -w0) >/dev/null; done"
# As the package leaves it: no data in memory or on disk, the configuration of the package, running.
RESET = (
    "systemctl stop redis-server; rm -rf /var/lib/redis/* /etc/redis/redis.conf.d; cp -a /root/stock.conf /etc/redis/redis.conf;"
    " systemctl start redis-server; redis-cli PING | grep -q PONG"
)


@dataclass(frozen=True)
class Sign:
    """``use`` makes the stock server look used; ``says`` is how the refusal calls it."""

    use: str
    says: str
    undo: str = "true"


SIGNS = {
    "a key in memory": Sign("redis-cli SET mine 1", "it contains keys"),
    "a changed configuration": Sign("echo 'maxclients 500' >> /etc/redis/redis.conf", "its configuration was changed"),
    "a connected client": Sign(
        "systemd-run -q --unit=client redis-cli SUBSCRIBE news; sleep 1", "clients are connected", "systemctl stop client"
    ),
    "data on disk": Sign(f"{FILL}; redis-cli SAVE; systemctl stop redis-server", "it keeps data on disk"),
    "an append-only file": Sign(
        f"redis-cli CONFIG SET appendonly yes; {FILL}; redis-cli FLUSHALL; sleep 1", "it keeps data on disk"
    ),
    "a password at run time": Sign("redis-cli CONFIG SET requirepass Zk3mBv90sLw27QxT", "does not answer on its default port"),
    "another port": Sign("redis-cli CONFIG SET port 6399", "does not answer on its default port"),
    "a second instance": Sign(
        "sed 's/^port .*/port 6390/; s/redis-server\\.\\(pid\\|log\\)/redis-two.\\1/' /root/stock.conf > /etc/redis/redis-two.conf;"
        " chown redis: /etc/redis/redis-two.conf; systemctl start redis-server@two; sleep 1",
        "more than one",
        "systemctl stop redis-server@two; rm /etc/redis/redis-two.conf",
    ),
}
SHORT = ("a key in memory", "a changed configuration", "a connected client", "data on disk", "a password at run time")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", list(SIGNS) if metafunc.config.getoption("--soak") else SHORT)


@pytest.fixture(scope="module")
def stock(single: Callable[..., Deployment], lab: Lab) -> Deployment:
    """A host with Debian's redis-server, installed and never used."""
    deployment = single(NAME, groups=("redis",))
    lab[NAME].check(f"{INSTALL} && cp -a /etc/redis/redis.conf /root/stock.conf")
    return deployment


def keys(host: Host) -> str:
    return host.run("redis-cli DBSIZE; ls -lR --full-time /var/lib/redis; cat /etc/redis/redis.conf").out


def test_a_server_in_use_is_left_alone(name: str, stock: Deployment, lab: Lab) -> None:
    """The deploy says the sign of use and the way out, and changes neither files nor data nor the running server."""
    sign, host = SIGNS[name], lab[NAME]
    host.check(sign.use)
    try:
        before, data, running = untouched(host), keys(host), host.run("pgrep -x redis-server").out
        run = stock.run()
        assert run.code != 0
        assert "Traceback" not in run.output
        sentences = [line for line in run.output.splitlines() if sign.says in line]
        assert len(sentences) == 1, run.output
        assert "was not touched" in sentences[0]
        assert "migration" in sentences[0]
        assert untouched(host) == before
        assert (keys(host), host.run("pgrep -x redis-server").out) == (data, running)
    finally:
        host.check(sign.undo)
        host.check(RESET)


def test_an_unused_server_is_adopted(stock: Deployment, lab: Lab) -> None:
    """The stock server gives way to the hardened one: no plaintext port, our users, and nothing to do the second time."""
    host = lab[NAME]
    assert host.check("redis-cli PING") == "PONG"
    stock.run().ok()
    assert host.run("redis-cli PING").code != 0
    assert host.check("/usr/local/sbin/redkeep-cli PING") == "PONG"
    assert "user default off" in host.check("/usr/local/sbin/redkeep-cli ACL LIST")
    assert host.check("systemctl is-enabled redis-server") == "enabled"
    assert stock.run("status").ok().drift == {}


def test_an_adopted_server_is_redkeeps_own(stock: Deployment, lab: Lab) -> None:
    """Once adopted, keys in it are no reason to refuse: it is the cache that is in use."""
    host = lab[NAME]
    host.check("/usr/local/sbin/redkeep-cli SET ai_cache:x 1")
    assert stock.run().ok().changed_operations == 0
    host.check("/usr/local/sbin/redkeep-cli DEL ai_cache:x")
