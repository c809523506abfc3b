"""The docker runtime: Redis in a container that its host's app reaches and nothing else does."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploys.box import BOXES, CREDENTIALS, EDGE, NETWORK, WRITE_AND_READ, Box, together
from tests.deploys.box import box as box  # made once for this file
from tests.deploys.contents import CLI
from tests.deploys.runner import ROOT, Deployment
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab


def test_the_app_proves_every_control(box: Box) -> None:
    """After one run the host's package proves an encrypted write and read, and every control, the container's process too."""
    status = box.host.run("redkeep status --json")
    assert status.code == 0, status.out
    states = {control["name"]: control["state"] for control in json.loads(status.out)["controls"]}
    assert ("ok", "ok") == (states["server process"], states["server sandbox"])


def test_a_second_run_changes_nothing(box: Box) -> None:
    """The second run mends nothing, and the containers are the same and were not restarted."""
    before = box.identities()
    run = box.deployment.run().ok()
    assert (run.changed_operations, run.mended) == (0, {})
    assert before == box.identities()
    assert box.deployment.run("status").ok().drift == {}


def test_compose_by_hand_changes_nothing(box: Box) -> None:
    """The compose files on the host alone describe the stack: compose's own `up -d` leaves the containers as they are."""
    before = box.identities()
    box.host.check("redkeep-stack up -d")
    assert before == box.identities()


def test_the_api_says_that_all_is_safe(box: Box) -> None:
    """From probes inside its container, for whoever has the key; a wrong key gets nothing."""
    code, body = box.ask("/monitoring/security-status")
    status = json.loads(body)
    assert (200, "ok", True, True) == (code, status["state"], status["network_isolated"], status["encryption_enabled"])
    assert 401 == box.ask("/monitoring/security-status", key="wrong")[0]


@pytest.mark.soak
def test_a_knob_of_the_api_replaces_its_container_alone(box: Box) -> None:
    """Another port, another container of the API, the same of the others; and back."""
    before = dict(zip(box.services, box.identities(), strict=True))
    for arguments in (("--data", "api_port=8799"), ()):
        box.deployment.run("secure_redis", *arguments).ok()
        now = dict(zip(box.services, box.identities(), strict=True))
        assert {"api"} == {name for name in box.services if before[name] != now[name]}
        before = now
    assert 200 == box.ask("/health/live")[0]


@pytest.mark.soak
def test_secrets_are_rotated_under_the_api(box: Box) -> None:
    """Its key in the running container, which stays; a password by another container of the API, and the server's stays."""
    old = box.host.check("cat /etc/redkeep/api/key")
    before = dict(zip(box.services, box.identities(), strict=True))
    box.deployment.run("rotate", "--data", "what=api-key", "--data", "quiet=0").ok()
    assert (401, 200) == (box.ask("/metrics", key=old)[0], box.ask("/metrics")[0])
    assert before["api"] == box.identity("api")
    box.deployment.run("rotate", "--data", "what=passwords", "--data", "force=yes").ok()
    assert before["redis"] == box.identity()
    assert before["api"] != box.identity("api")
    status = json.loads(box.ask("/monitoring/security-status")[1])
    assert ("ok", True) == (status["state"], status["redis_authenticated"])
    assert box.deployment.run("status").ok().drift == {}


def test_only_the_allowed_paths_are_open(box: Box) -> None:
    """From its network the server's port alone answers; other networks, the outside, other accounts and the way back do not."""
    box.host.check("docker network inspect other >/dev/null 2>&1 || docker network create other >/dev/null")
    address, gateway = box.address(), box.address("INTERNAL_GATEWAY")
    probes: dict[str, Callable[[], bool]] = {
        "app's network": lambda: box.reaches(NETWORK, address, 6380),
        "host's root": lambda: box.opens(address, 6380),
        "another network": lambda: box.reaches("other", address, 6380),
        "default network": lambda: box.reaches("bridge", address, 6380),
        "plaintext port": lambda: box.reaches(NETWORK, address, 6379),
        "another account of the host": lambda: box.opens(address, 6380, user="65534"),
        "the host's sshd": lambda: box.reaches(NETWORK, gateway, 22),
        "the outside": lambda: box.reaches(NETWORK, box.host.address, 22),
    }
    found = together(probes)
    assert found == dict.fromkeys(found, False) | {"app's network": True, "host's root": True}


def test_only_the_allowed_paths_of_the_edge_are_open(box: Box) -> None:
    """The API answers everybody on the host and its own network, the dashboard root alone; neither other networks nor the way out."""
    api, gateway = box.address("API_EDGE_ADDRESS"), box.address("EDGE_GATEWAY")
    probes: dict[str, Callable[[], bool]] = {
        "host's root": lambda: box.opens("127.0.0.1", 8765),
        "another account of the host": lambda: box.opens("127.0.0.1", 8765, user="65534"),
        "the edge": lambda: box.reaches(EDGE, api, 8765),
        "the host's own address": lambda: box.opens(box.host.address, 8765),
        "another port of the API's container": lambda: box.opens(api, 22),
        "default network": lambda: box.reaches("bridge", api, 8765),
        "the server's network": lambda: box.reaches(NETWORK, api, 8765),
        "the API inside the server's network": lambda: box.reaches(NETWORK, box.address("API_ADDRESS"), 8765),
        "the server from the edge": lambda: box.reaches(EDGE, box.address(), 6380),
        "the host's sshd": lambda: box.reaches(EDGE, gateway, 22),
        "the outside": lambda: box.reaches(EDGE, box.host.address, 22),
    }
    wanted = {"host's root": True, "another account of the host": True, "the edge": True}
    if "dashboard" in box.services:
        page = box.address("DASHBOARD_EDGE_ADDRESS")
        probes |= {"dashboard: root": lambda: box.opens("127.0.0.1", 8501)}
        probes |= {"dashboard: another": lambda: box.opens("127.0.0.1", 8501, user="65534")}
        probes |= {"dashboard: the edge": lambda: box.reaches(EDGE, page, 8501), "dashboard: default": lambda: box.reaches("bridge", page, 8501)}
        wanted |= {"dashboard: root": True}
    found = together(probes)
    assert found == dict.fromkeys(found, False) | wanted


@pytest.mark.soak
def test_the_api_reaches_the_server_and_what_is_listed(box: Box, lab: Lab) -> None:
    """From inside its container: Redis' TLS port; neither the host's services nor the outside, until api_reachable lists it."""
    peer = (lab["peer"] if "peer" in lab.hosts else lab.start("peer")).address
    targets = {"server": ("redis", 6380), "plaintext": ("redis", 6379), "host": (box.address("EDGE_GATEWAY"), 22)}
    targets |= {"host by its own address": (box.host.address, 22), "listed": (peer, 22)}

    def found() -> dict[str, bool]:
        script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
        run = f"docker exec {box.container('api')['Id']} python3 -c '{script}'"
        return {name: box.host.run(f"{run} {address} {port}").code == 0 for name, (address, port) in targets.items()}

    assert {"server"} == {name for name, there in found().items() if there}
    before = box.identities()
    path = write_inventory(
        box.deployment.inventory.with_name("listed.py"),
        {"redis": [box.host], "app": [box.host]},
        data={box.host.name: {"package_source": "wheelhouse", "redis_runtime": "docker", "api_reachable": [peer]} | BOXES[box.host.name][1]},
    )
    Deployment(path, box.deployment.secrets).run().ok()
    assert {"server", "listed"} == {name for name, there in found().items() if there}
    assert before == box.identities()
    box.deployment.run().ok()


def test_another_host_does_not_reach_it(box: Box, lab: Lab) -> None:
    """A neighbour that routes to the container by this host gets no connection."""
    neighbour = lab["peer"] if "peer" in lab.hosts else lab.start("peer")
    route = f"{box.address()}/32"
    edge = box.address("EDGE_SUBNET")
    for one in (route, edge):
        neighbour.check(f"ip route replace {one} via {box.host.address}")
    for address, port in ((box.address(), 6380), (box.address("API_EDGE_ADDRESS"), 8765), (box.host.address, 8765)):
        assert neighbour.run(f"timeout 3 bash -c '</dev/tcp/{address}/{port}'").code != 0
    for one in (route, edge):
        neighbour.check(f"ip route del {one}")


def test_the_server_reaches_nothing(box: Box) -> None:
    """From inside the server's container neither the host, nor the lab's network, nor a resolver answers."""
    box.host.check("redkeep-stack exec -T redis true 2>/dev/null || true")
    for target in (box.address("INTERNAL_GATEWAY"), box.host.address, "example.org"):
        said = box.host.run(f"timeout 6 docker exec {box.container()['Id']} {box.engine}-cli -h {target} -p 22 PING")
        assert "PONG" not in said.out
        assert said.code != 0


def test_the_health_check_holds(box: Box) -> None:
    """The engine's own check finds each container well."""
    deadline = time.monotonic() + 120
    for service in box.services:
        while (state := box.container(service)["State"]["Health"]["Status"]) == "starting":  # type: ignore[index]
            assert time.monotonic() < deadline
            time.sleep(1)
        assert state == "healthy", service


def test_no_secret_is_shown(box: Box) -> None:
    """No password, key or token stands in docker inspect, an image, its history or layers, the compose files, their variables, a
    container's log, or a process's arguments and environment."""
    images = "$(docker image ls --quiet 'localhost/redkeep/*')"
    shown = box.host.check(
        f"docker inspect $(docker ps -aq); docker image inspect {images}; docker history --no-trunc {images};"
        " cat /etc/redkeep/stack/* /etc/redkeep/stack/.env; for c in $(docker ps -q); do docker logs $c 2>&1; done;"
        " cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '"
    )
    listed = (
        f"{{ cat /etc/redkeep/operator/password; echo; cat /etc/{box.engine}/health/password /etc/redkeep/api/key;"
        " grep -hE 'PASSWORD=|KEYS=' /etc/redkeep/cache.env /etc/redkeep/api/cache.env | cut -d= -f2- | tr , '\\n';"
        f" for k in /etc/{box.engine}/health /etc/redkeep/tls /etc/redkeep/api; do sed -n 3p $k/client.key; done;"
        " sed -n 3p /etc/redkeep/api/server.key; } | sort -u"
    )
    secrets = box.host.check(listed).split()
    assert len(secrets) >= 9
    assert [secret for secret in secrets if secret in shown] == []
    box.host.check(f"{listed} > /run/words; chmod 600 /run/words")
    assert "0" == box.host.check(f"docker save {images} | grep -acF -f /run/words || true").strip()
    box.host.check("rm /run/words")


def test_a_quickstart_needs_nothing_but_compose(box: Box) -> None:
    """On the same engine, beside the deployed stack: `redkeep quickstart`, compose's own `up -d`, and a client writes and
    reads; without a port at first, then by one that only the loopback address has."""
    image = box.host.check("docker image ls --format '{{.Repository}}:{{.Tag}}' localhost/redkeep/redis")
    compose = "$(command -v docker-compose || echo docker compose)"
    for port, place in ((0, "10.214."), (16380, "127.0.0.1")):
        box.host.check(f"cd /root && redkeep quickstart dev --engine {box.engine} --image {image} --port {port}")
        box.host.check(f"cd /root/dev && {compose} up -d >/dev/null 2>&1")
        said = box.host.check(f"cd /root && set -a && . ./dev/cache.env && /opt/redkeep/current/bin/python -c \"{WRITE_AND_READ}\"")
        assert said.strip() == "42"
        assert place in box.host.check("grep REDIS_URL /root/dev/cache.env")
        listening = box.host.run("ss -Hltn 'sport = :16380 or sport = :6380'").out
        assert [line.split()[3] for line in listening.splitlines()] == ([f"127.0.0.1:{port}"] if port else [])
    assert not box.reaches("bridge", box.host.check("sed -n 's/^REDIS_ADDRESS=//p' /root/dev/.env"), 6380)
    copied = "mkdir /root/unset && cd /root/unset && cp ../dev/compose*.yaml . && grep -v REDIS_IMAGE ../dev/.env > .env"
    unset = box.host.run(f"{copied} && {compose} config")
    assert unset.code != 0
    assert "REDIS_IMAGE" in unset.err
    box.host.check(f"cd /root/dev && {compose} down >/dev/null 2>&1; rm -rf /root/dev /root/unset")
    assert box.deployment.run("status").ok().drift == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("docker update --memory 64m --memory-swap 64m $(docker ps -q --filter name=redis)", "has Memory"),
        ("docker network connect other $(docker ps -q --filter name=redis)", "is also on the network other"),
        ("nft flush table inet redkeep", "the firewall's rules in the kernel"),
        ("docker stop $(docker ps -q --filter name=redis)", "wanted running"),
        ("docker rm --force $(docker ps -q --filter name=redkeep.api)", "container api is missing"),
        ("echo more >> /etc/redkeep/api/cache.env", "file /etc/redkeep/api/cache.env has different content"),
        (f"{CLI} CONFIG SET maxclients 20", "running setting maxclients"),
    ],
)
def test_a_change_by_hand_is_named_and_mended(box: Box, change: str, named: str) -> None:
    """The status names the change, the next run mends that one thing, and then all is as wanted, for compose as well."""
    box.host.check("docker network inspect other >/dev/null 2>&1 || docker network create other >/dev/null")
    box.host.check(change)
    status = box.deployment.run("status")
    lines = status.drift[box.host.name]
    assert len(lines) == 1, status.output
    assert named in lines[0]
    assert box.deployment.run().ok().mended == status.drift
    assert box.deployment.run("status").ok().drift == {}
    before = box.identities()
    box.host.check("redkeep-stack up -d")
    assert before == box.identities(), "what a deploy has made, compose leaves alone at the next boot"


def test_it_comes_back_without_hands(box: Box) -> None:
    """Redis killed in its container, the engine restarted, the host rebooted: each time all controls hold again, the
    isolation as well, and the engine's restart leaves the container running. With rules that nft refuses nobody gets through."""
    box.host.check("kill -9 $(docker inspect --format '{{.State.Pid}}' $(docker ps -q --filter name=redis))")
    assert box.answers()
    before = box.identity()
    box.host.check("systemctl restart docker")
    assert box.answers()
    assert before == box.identity()
    box.host.check("cp -a /etc/redkeep/firewall.nft /root/; echo 'no rule' >> /etc/redkeep/firewall.nft")
    box.host.reboot()
    box.host.run("systemctl is-system-running --wait")
    assert "failed" == box.host.run("systemctl is-active redkeep-firewall").out.strip()
    assert "" != box.host.check("docker ps --quiet"), "the engine starts on its own what it had"
    assert [False, False] == [box.opens(box.address(), 6380), box.opens("127.0.0.1", 8765)]
    assert not box.reaches("bridge", box.address(), 6380)
    box.host.check("mv /root/firewall.nft /etc/redkeep/; systemctl start redkeep-stack")
    assert box.answers()
    assert not box.reaches("bridge", box.address(), 6380)
    assert not box.reaches("bridge", box.address("API_EDGE_ADDRESS"), 8765)
    deadline = time.monotonic() + 120
    while box.ask("/health/ready")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert box.deployment.run("status").ok().drift == {}


def test_the_distributions_rules_take_no_table_of_the_stack_with_them(box: Box) -> None:
    """nftables.service flushes all rules when it starts, reloads and stops: both tables of ours are there again, as they were. The engine's
    own rules come back with its restart."""
    wanted = box.host.check("for f in inet bridge; do nft --stateless list table $f redkeep; done")
    try:
        for verb in ("start", "reload", "restart", "stop"):
            box.host.check(f"nft add table inet flushed; systemctl {verb} nftables")
            assert "flushed" not in box.host.check("nft list tables"), verb
            assert wanted == box.host.check("for f in inet bridge; do nft --stateless list table $f redkeep; done"), verb
    finally:
        box.host.run("systemctl stop nftables; systemctl restart docker")
    assert box.answers()
    assert box.deployment.run("status").ok().drift == {}


def test_a_switch_keeps_what_is_kept_and_goes_both_ways(box: Box, tmp_path: Path) -> None:
    """To native and back, by an image from an archive: the app's password and the authority stay, the data where it is kept, every
    control holds, nothing of the other runtime runs. An image that cannot be had, does not run, does not listen or does not take the new
    configuration leaves the native server, its files and the operator's command as they were."""
    before = box.host.check(CREDENTIALS)
    name = box.host.check("docker image ls --format '{{.Repository}}:{{.Tag}}' localhost/redkeep/redis")
    box.host.check(f"{CLI} SET kept here")
    path = tmp_path / "redis.tar"
    path.write_bytes(base64.b64decode(box.host.check(f"docker save {name} | base64")))
    no_server = box.push("probe")
    no_start = box.broken(name.strip(), when="*--tls-port*")
    no_configuration = box.broken(name.strip(), when="*--aclfile*")
    without = ("--data", "dashboard_enabled=false")  # which needs a container
    box.deployment.run("secure_redis", "--data", "redis_runtime=native", *without).ok()
    assert box.answers()
    assert box.host.check("docker ps --all --quiet --filter label=com.docker.compose.project=redkeep") == ""
    native = f"systemctl is-active {box.engine}-server redkeep-api; {CLI} PING; sha256sum /etc/{box.engine}/*.*"
    assert ["active", "active", "PONG"] == (at_work := box.host.check(native)).split()[:3]
    for wanted, says in (
        (f"127.0.0.1:5000/none@{'sha256:' + 'a1' * 32}", "cannot be pulled"),
        (no_server, f"does not run {box.engine}-server"),
        (f"{tmp_path}/none.tar", "cannot be read: No such file or directory"),
        (no_start, f"does not start {box.engine}-server with TLS: it is broken"),
        (no_configuration, "the new configuration does not start, the old one stays: it is broken"),
    ):
        run = box.deployment.run("secure_redis", "--data", f"container_image={wanted}")
        assert run.code != 0
        assert says in run.output
        assert (at_work, True) == (box.host.check(native), box.answers(seconds=0)), says
    box.deployment.run("secure_redis", "--data", f"container_image={path}").ok()
    assert box.answers()
    assert ":archive-" in str(box.container()["Config"]["Image"])  # type: ignore[index]
    assert "active" not in box.host.run(f"systemctl is-active {box.engine}-server redkeep-api").out.split()
    assert 200 == box.ask("/health/live")[0]
    assert before == box.host.check(CREDENTIALS)
    assert box.host.check(f"{CLI} GET kept").strip() == ("here" if box.keeps else "")


def test_an_image_comes_from_a_registry(box: Box) -> None:
    """By its digest: the container is made anew from it, a second run changes nothing, and the default comes back."""
    reference = box.push(str(box.container()["Config"]["Image"]))  # type: ignore[index]
    box.deployment.run("secure_redis", "--data", f"container_image={reference}").ok()
    assert box.answers()
    assert str(box.container()["Config"]["Image"]).endswith(f":registry-{reference[-64:][:16]}")  # type: ignore[index]
    before = box.identity()
    assert box.deployment.run("secure_redis", "--data", f"container_image={reference}").ok().changed_operations == 0
    assert before == box.identity()
    box.deployment.run().ok()
    assert box.answers()
    assert len(box.host.check("docker image ls --quiet localhost/redkeep/redis").split()) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("container_subnet=172.17.0.0/24", "overlaps with 172.17.0.0/16"),
        ("container_memory=1mb", "leaves too little room beside redis_maxmemory"),
    ],
)
def test_what_cannot_be_is_refused_before_the_stack_is_touched(box: Box, data: str, says: str) -> None:
    """One sentence, and the container runs on as it was."""
    before = box.identity()
    run = box.deployment.run("secure_redis", "--data", data)
    assert run.code != 0
    assert says in run.output
    assert before == box.identity()


@pytest.mark.soak
def test_an_engine_that_does_not_take_the_settings_gets_its_own_back(box: Box) -> None:
    """A flag of its unit contradicts them: the run says so in the engine's words, and the server is at work all the same."""
    flags = "-H fd:// --containerd=/run/containerd/containerd.sock --log-driver json-file"
    folder = "/etc/systemd/system/docker.service.d"
    box.host.check(
        f"mkdir -p {folder}; printf '[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd {flags}\n' > {folder}/flags.conf;"
        " systemctl daemon-reload; sed -i '/\"icc\"/d' /etc/docker/daemon.json"
    )
    run = box.deployment.run()
    assert run.code != 0
    assert "specified both as a flag and in the configuration file: log-driver" in run.output
    assert "its previous settings were restored" in run.output
    assert box.answers()
    box.host.check(f"rm -r {folder}; systemctl daemon-reload")
    box.deployment.run().ok()
    assert box.answers()
    assert box.deployment.run("status").ok().drift == {}


def test_independent_eyes_agree(box: Box) -> None:
    """tests/hosts passes on the host."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/hosts", "--inventory", str(box.deployment.inventory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_removal_leaves_no_stack(box: Box) -> None:
    """destroy takes containers, network, images, files and the engine that came with it."""
    name = box.deployment.inventory.stem
    box.deployment.run("destroy", "--data", f"confirm={name}").ok()
    left = f"/etc/redkeep /etc/{box.engine} /var/lib/redkeep /var/lib/redkeep-api /etc/docker/daemon.json"
    assert box.host.run(f"ls {left} 2>/dev/null; getent passwd redkeep-api").out == ""
    assert box.host.run("nft list tables 2>/dev/null | grep redkeep").out == ""
