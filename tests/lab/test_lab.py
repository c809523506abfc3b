"""The lab on a real engine: a host of each suite, from bare to gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Host, Lab, Spec
from tests.lab.image import SUITES
from tests.lab.lab import leftovers


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """A lab with one systemd host of each suite, named after it."""
    with Lab() as lab:
        lab.start_all(Spec(suite, suite) for suite in SUITES)
        yield lab


@pytest.fixture(params=SUITES)
def host(pair: Lab, request: pytest.FixtureRequest) -> Host:
    """Each of the two hosts in turn."""
    return pair[request.param]


def test_systemd_runs_without_a_failed_unit(host: Host) -> None:
    """systemd reaches `running`: no unit failed, on either suite."""
    assert "running" == host.run("systemctl is-system-running --wait").out.strip(), host.run("systemctl --failed").out


def test_the_suite_is_the_one_asked_for(host: Host) -> None:
    """The host's os-release names its suite."""
    assert host.spec.suite == host.check(". /etc/os-release && echo $VERSION_CODENAME")


def test_root_enters_by_key_with_strict_host_key_checking(host: Host) -> None:
    """ssh as root works with the lab's own known_hosts."""
    assert (0, "root\n", "") == host.ssh("id -un")


def test_operator_becomes_root_without_a_password(host: Host) -> None:
    """operator enters by the same key and sudo asks nothing."""
    assert (0, "operator\nroot\n", "") == host.ssh("id -un && sudo -n id -un", user="operator")


def test_the_host_is_bare(host: Host) -> None:
    """Nothing a deploy installs is there: no server, no client, no firewall tool, no openssl, no venv."""
    found = host.run("for t in redis-server redis-cli valkey-server nft openssl docker; do command -v $t; done").out
    assert "" == found
    assert host.run("python3 -c 'import ensurepip'").code != 0


def test_apt_installs_a_package(host: Host) -> None:
    """apt reaches its archive through the lab's network."""
    host.check("apt-get update && apt-get install -y --no-install-recommends hello")
    assert "Hello, world!" == host.check("hello")


def test_the_server_installs_from_the_disk(host: Host) -> None:
    """redis-server needs no download: its packages are in the image, only not installed."""
    host.check("apt-get install -y --no-download redis-server")
    assert "PONG" == host.check("redis-cli ping")


def test_each_host_has_an_identity_of_its_own(pair: Lab) -> None:
    """Machine ids and host keys differ between hosts."""
    ask = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
    assert 2 == len({host.check(ask) for host in pair.hosts.values()})


def test_hosts_reach_each_other_by_name(pair: Lab) -> None:
    """A host's name resolves in the lab's network to its address."""
    assert pair["trixie"].address == pair["bookworm"].check("getent hosts trixie").split()[0]


def test_put_writes_mode_and_owner(host: Host) -> None:
    """A file put on a host, on tmpfs too, has the content, mode and owner asked for."""
    host.put("/run/lab/secret", "x y\n", mode=0o640, owner="operator:root")
    assert "640 operator root" == host.check("stat -c '%a %U %G' /run/lab/secret")
    assert "x y" == host.check("cat /run/lab/secret")


def test_a_reboot_keeps_the_disk_and_empties_tmpfs(host: Host) -> None:
    """After a reboot ssh works at the same address, files stay, /run is new."""
    host.put("/etc/kept", "1")
    host.put("/run/lost", "1")
    host.reboot()
    assert (0, "/etc/kept\n") == host.ssh("ls /etc/kept")[:2]
    assert host.run("test -e /run/lost").code == 1


def test_fresh_gives_a_bare_host_at_the_same_address(pair: Lab) -> None:
    """A reset host has lost every change and keeps address and host key."""
    host = pair["bookworm"]
    before = (host.address, host.check("cat /etc/ssh/ssh_host_ed25519_key.pub"))
    host.put("/etc/change", "1")
    pair.fresh("bookworm")
    assert host.run("test -e /etc/change").code == 1
    assert before == (host.address, host.check("cat /etc/ssh/ssh_host_ed25519_key.pub"))
    assert 0 == host.ssh("true").code


def test_a_second_process_finds_the_hosts(pair: Lab) -> None:
    """A lab of the same id takes the hosts over with specification and address."""
    again = Lab(pair.id)
    assert {h.spec: h.address for h in pair.hosts.values()} == {h.spec: h.address for h in again.hosts.values()}


@pytest.mark.parametrize("suite", SUITES)
def test_a_plain_container_has_sshd_and_no_systemd(pair: Lab, suite: str) -> None:
    """Without an init system sshd runs, and nothing that calls itself systemd does."""
    host = pair.start(f"plain-{suite}", suite, init=False, apt_lists=False)
    assert host.run("test -d /run/systemd/system").code == 1
    assert (0, "operator\n", "") == host.ssh("id -un", user="operator")
    assert "" == host.check("ls /var/lib/apt/lists")
    pair.remove(host.name)


@pytest.mark.parametrize("suite", SUITES)
def test_a_nested_engine_runs_a_container(pair: Lab, suite: str) -> None:
    """A host with `docker=True` runs Debian's own engine on overlay2, and vm.* of the machine stay out of its reach."""
    host = pair.start(f"nest-{suite}", suite, docker=True)
    packages = "docker.io docker-cli" if suite == "trixie" else "docker.io"
    host.check(f"apt-get install -y --no-install-recommends --no-download {packages}")
    assert "overlay2" == host.check("docker info --format '{{.Driver}}'")
    host.check("cd / && tar -c bin lib lib64 usr/bin/dash usr/lib64 usr/lib/*-linux-gnu | docker import - tiny")
    assert "nested" == host.check("docker run --rm tiny /usr/bin/dash -c 'echo nested'")
    assert host.run("echo 1 > /proc/sys/vm/overcommit_memory").code != 0
    pair.remove(host.name)


def test_destroy_leaves_nothing() -> None:
    """After destroy no container, volume or network carries the lab's label; a second destroy does nothing."""
    lab = Lab()
    try:
        lab.start("one", docker=True)
        assert 3 == len(leftovers(lab.id))
    finally:
        lab.destroy()
    assert [] == leftovers(lab.id)
    assert not lab.folder.exists()
    lab.destroy()
