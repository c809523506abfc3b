"""Every change by hand is named by a status, and mended by the next run: that one and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

CLI = "/usr/local/sbin/redkeep-cli"
# Another user's hash: SHA-256 of a text that is nobody's password.
FOREIGN = "c2a9a4c2e6f9a0a5f6f1c0c0a5a4f5a7ab25a4ad9c1e0a1b7e1a43cb61b4b4b4"  # pragma: allowlist secret - a hash of nothing


@dataclass(frozen=True)
class Drift:
    """``change`` is run on the host, ``named`` is what the status' only line holds, ``restart`` whether it needs one."""

    change: str
    named: str
    restart: bool = False
    host: str = "redis70"


DRIFTS = {
    # Users of the running server
    "a rule added": Drift(f"{CLI} ACL SETUSER cache_service +flushall", "user cache_service: rule +flushall"),
    "a rule taken away": Drift(f"{CLI} ACL SETUSER cache_service -get", "user cache_service: rule +get is missing"),
    "keys opened": Drift(f"{CLI} ACL SETUSER cache_service allkeys", "user cache_service: rule"),
    "a second password": Drift(f"{CLI} ACL SETUSER monitor '#{FOREIGN}'", "user monitor: password differs"),
    "a user without password": Drift(f"{CLI} ACL SETUSER exporter nopass", "user exporter:"),
    "a user more": Drift(f"{CLI} ACL SETUSER eve on nopass '~*' +@all", "user eve: not wanted"),
    "a user less": Drift(f"{CLI} ACL DELUSER backup", "user backup: missing"),
    "a user off": Drift(f"{CLI} ACL SETUSER health_service off", "user health_service: is off, wanted on"),
    "the default user on": Drift(f"{CLI} ACL SETUSER default on nopass '~*' +@all", "user default:"),
    # Settings of the running server
    "maxclients": Drift(f"{CLI} CONFIG SET maxclients 20", "running setting maxclients is '20'"),
    "maxmemory": Drift(f"{CLI} CONFIG SET maxmemory 0", "running setting maxmemory is '0'"),
    "protected mode": Drift(f"{CLI} CONFIG SET protected-mode no", "running setting protected-mode is 'no'"),
    "a plaintext port": Drift(f"{CLI} CONFIG SET port 6379", "running setting port is '6379'"),
    "TLS 1.2": Drift(f"{CLI} CONFIG SET tls-protocols 'TLSv1.2 TLSv1.3'", "running setting tls-protocols"),
    "no client certificates": Drift(f"{CLI} CONFIG SET tls-auth-clients no", "running setting tls-auth-clients is 'no'"),
    "snapshots": Drift(f"{CLI} CONFIG SET save '60 1'", "running setting save is '60 1'"),
    # The certificate that is served
    "a certificate elsewhere": Drift(
        f"cp -a $(dirname /etc/redis/tls/*/server.key) /etc/redis/other; d=/etc/redis/other; {CLI} CONFIG SET"
        " tls-cert-file $d/server.crt tls-key-file $d/server.key tls-ca-cert-file $d/ca.crt",
        "the server reads /etc/redis/other/server.crt",
    ),
    # Nobody may speak to a server with a foreign certificate, the deploy neither: it starts anew from its files.
    "a foreign certificate": Drift(
        "d=/etc/redis/foreign; mkdir -p $d; cp /etc/redis/tls/*/ca.crt $d/; cd $d;"
        " openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.crt"
        " -subj /CN=other -days 2 2>/dev/null; chgrp -R redis $d; chmod 750 $d; chmod 640 $d/*;"
        f" {CLI} CONFIG SET tls-cert-file $d/server.crt tls-key-file $d/server.key tls-ca-cert-file $d/ca.crt",
        "certificate verify failed",
        restart=True,
    ),
    # Files
    "redis.conf edited": Drift("echo 'maxclients 5' >> /etc/redis/redis.conf", "file /etc/redis/redis.conf has different content"),
    "redis.conf readable by all": Drift("chmod 644 /etc/redis/redis.conf", "file /etc/redis/redis.conf has mode 0644"),
    "users.acl edited": Drift(
        "sed -i 's/^user default off/user default on/; s/^user default reset off/user default reset on/' /etc/redis/users.acl",
        "file /etc/redis/users.acl has different content",
    ),
    "users.acl gone": Drift("rm /etc/redis/users.acl", "file /etc/redis/users.acl is missing"),
    "users.acl owned by the server": Drift("chown redis /etc/redis/users.acl", "file /etc/redis/users.acl belongs to redis:redis"),
    "a certificate file replaced": Drift("echo x > $(ls /etc/redis/tls/*/server.crt)", "server.crt has different content"),
    "a key readable by all": Drift("chmod 644 /etc/redis/tls/*/server.key", "server.key has mode 0644"),
    "the operator's folder open": Drift("chmod 755 /etc/redkeep/operator", "folder /etc/redkeep/operator has mode 0755"),
    "the OpenSSL policy gone": Drift("rm /etc/redis/openssl.cnf", "file /etc/redis/openssl.cnf is missing"),
    "log rotation gone": Drift("rm /etc/logrotate.d/redis-server", "file /etc/logrotate.d/redis-server is missing"),
    "kernel settings gone": Drift("rm /etc/sysctl.d/90-redkeep.conf", "file /etc/sysctl.d/90-redkeep.conf is missing"),
    # Units
    "the sandbox edited": Drift(
        "sed -i 's/^TasksMax=.*/TasksMax=4096/' /etc/systemd/system/redis-server.service.d/redkeep.conf; systemctl daemon-reload",
        "redkeep.conf has different content",
    ),
    "the sandbox edited and used": Drift(
        "sleep 1; sed -i 's/^TasksMax=.*/TasksMax=4096/' /etc/systemd/system/redis-server.service.d/redkeep.conf; sleep 1;"
        " systemctl daemon-reload; systemctl restart redis-server",
        "redkeep.conf has different content",
        restart=True,
    ),
    "a drop-in of someone else": Drift(
        "printf '[Service]\\nProtectSystem=no\\n' > /etc/systemd/system/redis-server.service.d/zz.conf; systemctl daemon-reload",
        "is changed by /etc/systemd/system/redis-server.service.d/zz.conf",
        restart=True,
    ),
    "the service stopped": Drift("systemctl stop redis-server", "service redis-server is not running", restart=True),
    "the service not enabled": Drift("systemctl disable -q redis-server 2>/dev/null", "unit redis-server.service is disabled"),
    "the daily check off": Drift("systemctl disable -q --now redkeep-certificates.timer 2>/dev/null", "redkeep-certificates.timer"),
    # The allow-list
    "the firewall flushed": Drift("nft flush table inet redkeep", "rules in the kernel"),
    "a rule in the firewall": Drift("nft insert rule inet redkeep redis accept", "rules in the kernel"),
    "the allow-list edited": Drift("sed -i 's/counter drop/counter accept/' /etc/redkeep/firewall.nft", "file /etc/redkeep/firewall.nft"),
    # The app's host
    "the app's credentials readable": Drift("chmod 644 /etc/redkeep/cache.env", "cache.env has mode 0644", host="app13"),
    "the app's credentials edited": Drift("echo REDIS_DEV_MODE=true >> /etc/redkeep/cache.env", "cache.env has different content", host="app13"),
    "the package's link moved": Drift("ln -sfn /tmp /opt/redkeep/current", "link /opt/redkeep/current", host="app13"),
    "a reader more": Drift("gpasswd -a nobody redkeep >/dev/null", "user nobody can read the app's credentials", host="app13"),
    "the client's key gone": Drift("rm /etc/redkeep/tls/client.key", "client.key is missing", host="app13"),
}

# The short form: one of each kind.
SHORT = (
    "a rule added",
    "a user more",
    "a plaintext port",
    "a certificate elsewhere",
    "a foreign certificate",
    "redis.conf edited",
    "users.acl owned by the server",
    "the sandbox edited",
    "the sandbox edited and used",
    "a drop-in of someone else",
    "the service stopped",
    "the firewall flushed",
    "the app's credentials edited",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = DRIFTS if metafunc.config.getoption("--soak") else SHORT
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", list(chosen))


def started(host: Host) -> str:
    """Changes when the server's process does."""
    return host.run("pgrep -x redis-server; stat -c %Y /proc/$(pgrep -x redis-server)").out


@pytest.fixture
def site(deployed: Callable[[str], Deployment], lab: Lab) -> Iterator[Deployment]:
    """The deployment, as wanted again after a test that failed, without the certificates that a test brought."""
    deployment = deployed("redis70")
    yield deployment
    if deployment.run("status").code:
        deployment.run()
    lab["redis70"].check("rm -rf /etc/redis/other /etc/redis/foreign")


def test_one_change_by_hand_is_named_and_mended_alone(name: str, site: Deployment, lab: Lab) -> None:
    """The status has exactly one line, about the change; the run mends exactly that; then all is as wanted; the server
    is restarted only where nothing else helps."""
    drift = DRIFTS[name]
    server = lab["redis70"]
    before = started(server)
    lab[drift.host].check(drift.change)

    status = site.run("status")
    assert status.code != 0
    assert list(status.drift) == [drift.host], status.output
    assert len(status.drift[drift.host]) == 1, status.drift
    assert drift.named in status.drift[drift.host][0]

    mended = site.run().ok()
    assert mended.mended == status.drift
    assert site.run("status").ok().drift == {}
    assert (started(server) != before) == drift.restart


def test_a_command_that_the_running_server_refuses_fails_the_run(site: Deployment, lab: Lab) -> None:
    """The run does not count it as mended: it ends in the server's words, and so does the next one until the cause is gone."""
    host = lab["redis70"]
    host.check(f"{CLI} CONFIG SET maxclients 20; prlimit --nofile=100:100 --pid $(pgrep -x redis-server)")
    try:
        for _ in range(2):
            run = site.run()
            assert run.code != 0
            assert "not able to handle the specified number of clients" in run.output
    finally:
        host.check("systemctl restart redis-server")  # the limit of open files was its process' own
    assert site.run("status").ok().drift == {}


def reach(host: Host, account: str = "") -> tuple[int, str, str]:
    """Exit code of the package's own status, and what it says of the network: to root, or to another account of the app's group."""
    before = f"setpriv --reuid={account} --regid={account} --groups=$(getent group redkeep | cut -d: -f3) " if account else ""
    status = host.run(f"{before}redkeep status --json")
    (found,) = (each for each in json.loads(status.out)["controls"] if each["name"] == "network reach")
    return status.code, found["state"], found["remedy"]


def test_the_posture_sees_that_the_allow_list_is_gone(site: Deployment, lab: Lab) -> None:
    """Root's posture is red while the kernel lacks the table; an account that may not look there tells what was loaded, and knows nothing
    once it was unloaded; loaded again, it is green."""
    host = lab["redis70"]
    assert ["ok", "ok"] == [reach(host)[1], reach(host, "65534")[1]]
    try:
        host.check("nft delete table inet redkeep")
        code, state, remedy = reach(host)
        assert (1, "weak") == (code, state)
        assert "deploy again" in remedy
        host.check("systemctl stop --job-mode=ignore-dependencies redkeep-firewall")
        code, state, remedy = reach(host, "65534")
        assert (3, "unknown") == (code, state)
        assert "as root" in remedy
    finally:
        host.check("systemctl start redkeep-firewall")
    assert (0, "ok", "") == reach(host)


def test_the_distributions_rules_take_no_allow_list_with_them(site: Deployment, lab: Lab) -> None:
    """nftables.service flushes all rules when it starts, reloads and stops: ours are there again, and strangers stay outside."""
    host = lab["redis70"]
    try:
        for verb in ("start", "reload", "restart", "stop"):
            host.check(f"nft add table inet flushed; systemctl {verb} nftables")
            assert "flushed" not in host.check("nft list tables"), verb
            assert (0, "ok", "") == reach(host), verb
        assert site.run("status").drift == {}
    finally:
        host.run("systemctl stop nftables")
        site.run().ok()


def test_without_its_allow_list_the_server_stays_down(site: Deployment, lab: Lab) -> None:
    """Rules that nft refuses: systemd starts no server, the status names the unit, and a deploy brings both back."""
    host = lab["redis70"]
    host.check("echo 'add rule inet redkeep redis meta skuid nobody-here accept' >> /etc/redkeep/firewall.nft")
    try:
        assert host.run("systemctl restart redkeep-firewall").code != 0
        assert host.run("systemctl start redis-server").code != 0
        assert "active" != host.run("systemctl is-active redis-server").out.strip()
        named = site.run("status").drift["redis70"]
        assert any("unit redkeep-firewall.service failed: redis is not started without it" in line for line in named), named
    finally:
        site.run().ok()
    assert host.check(f"{CLI} PING").strip() == "PONG"


def test_the_allow_list_is_loaded_where_no_disk_can_be_written(site: Deployment, lab: Lab) -> None:
    """As at a boot into a read-only root, or with /var on a disk of its own that is not there yet."""
    host = lab["redis70"]
    host.check("mount --bind /var/lib /var/lib; mount -o remount,bind,ro /var/lib")
    try:
        host.check("systemctl stop --job-mode=ignore-dependencies redkeep-firewall; systemctl start redkeep-firewall")
        assert (0, "ok", "") == reach(host)
    finally:
        host.check("umount /var/lib")
