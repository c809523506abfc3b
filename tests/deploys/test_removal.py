"""What was installed can be taken away again, to the last file."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.deploys.crash import Kill, run_and_kill
from tests.deploys.hoststate import differences, leftovers, tree, untouched
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "removed"

# What any installation and removal of a Debian package leaves, whoever does it.
DEBIAN = re.compile(
    r"^/var/lib/(dpkg|apt|systemd|pam|ucf|python|private)\b|^/etc/(group|passwd|subuid|subgid)\||^/var/lib/logrotate"
    r"|^/etc/ca-certificates|^/usr/local/lib/python|^/usr/local/(lib|share)\|"
)

SETTLED = """dpkg-query -W -f 'package|${Package} ${Version} ${db:Status-Status}\\n'
apt-mark showmanual | sed 's/^/manual|/'
systemctl list-unit-files --no-legend --no-pager | grep -v -e '^-\\.mount' | sed 's/^/unit|/'
systemctl list-units --failed --no-legend --no-pager | sed 's/^/failed|/'
getent group | cut -d: -f1 | sed 's/^/group|/'
getent passwd | cut -d: -f1 | sed 's/^/user|/'
nft list ruleset 2>/dev/null | sed 's/^/nft|/'
cat /proc/sys/vm/overcommit_memory /proc/sys/net/core/somaxconn | sed 's/^/sysctl|/'
ss -Hltn | awk '{print "listens|" $4}'
find /run /var/log /var/cache /srv /home /root -xdev \\( -iname '*redis*' -o -iname '*redkeep*' -o -iname '*valkey*' \\) \
    ! -path '/var/cache/apt/*' | sed 's/^/file|/'"""


def bare_state(host: Host) -> list[str]:
    """Files, packages, units, groups, users, rules and ports of a host."""
    files = [line for line in tree(host, "/etc", "/opt", "/usr/local", "/var/lib") if not DEBIAN.search(line)]
    return files + sorted(host.run(SETTLED).out.splitlines())


class Story:
    """One host through bare, deployed and removed, told in the order of the tests."""

    def __init__(self, deployment: Deployment, host: Host) -> None:
        self.deployment, self.host = deployment, host
        self.bare = bare_state(host)

    def destroy(self, *arguments: str):  # type: ignore[no-untyped-def]
        return self.deployment.run("destroy", *arguments)

    def confirmed(self):  # type: ignore[no-untyped-def]
        return self.destroy("--data", f"confirm={NAME}")


@pytest.fixture(scope="module")
def story(single: Callable[..., Deployment], lab: Lab) -> Story:
    """A bare host with a client elsewhere and the API, so that the firewall and a service of ours are a part of it."""
    return Story(single(NAME, redis_bind=["0.0.0.0"], allowed_clients=["192.0.2.7"], api_enabled=True), lab[NAME])


def test_a_host_that_redkeep_never_managed_stays_as_it_is(story: Story) -> None:
    """Even a confirmed destroy finds nothing to do there."""
    before = untouched(story.host)
    run = story.confirmed().ok()
    assert run.changed_operations == 0
    assert untouched(story.host) == before


@pytest.mark.parametrize("arguments", [(), ("--data", "confirm=true")], ids=str)
def test_it_wants_the_name(story: Story, arguments: tuple[str, ...]) -> None:
    """Without the environment's name it refuses, says which name to give, and changes nothing."""
    if story.host.run("test -e /var/lib/redkeep/managed").code != 0:
        story.deployment.run().ok()
    before = untouched(story.host)
    run = story.destroy(*arguments)
    assert run.code != 0
    assert "Traceback" not in run.output
    assert run.output.count(f"--data confirm={NAME}") == 1
    assert untouched(story.host) == before
    assert story.host.check("/usr/local/sbin/redkeep-cli PING") == "PONG"


def test_nothing_of_it_remains(story: Story) -> None:
    """Files, packages, users, groups, units, kernel settings, rules, ports: as before the first deploy."""
    story.confirmed().ok()
    assert not differences(story.bare, bare_state(story.host)), "\n".join(differences(story.bare, bare_state(story.host)))
    assert leftovers(story.host) == []


def test_a_second_destroy_is_idle(story: Story) -> None:
    """There is nothing more to remove."""
    assert story.confirmed().ok().changed_operations == 0


@pytest.mark.soak
def test_a_deploy_works_again(story: Story) -> None:
    """The same inventory and secrets make the host anew."""
    story.deployment.run().ok()
    assert story.deployment.run("status").ok().drift == {}


@pytest.mark.soak
def test_a_destroy_that_was_killed_is_finished_by_the_next(story: Story) -> None:
    """Killed in the middle of each of its operations, destroy said again removes the rest."""
    for name in ("Remove the server and its data", "Remove the files", "Remove the packages installed by Redkeep"):
        for milliseconds in (0, 300, 1500):
            story.deployment.run().ok()
            run_and_kill(story.deployment, Kill(name, milliseconds), "destroy", "--data", f"confirm={NAME}")
            story.confirmed().ok()
            wrong = differences(story.bare, bare_state(story.host))
            assert not wrong, f"{name} +{milliseconds} ms\n" + "\n".join(wrong)
            assert leftovers(story.host) == []
