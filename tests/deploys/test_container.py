"""The docker runtime: Redis in a container that its host's app reaches and nothing else does."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploys.runner import ROOT, Deployment
from tests.lab.hosts import Host, Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab

CLI = "/usr/local/sbin/redkeep-cli"

# Each host's release and knobs. The second has the newer engine with compose 2, the other server, and keeps its data.
BOXES: dict[str, tuple[str, dict[str, object]]] = {
    "box12": ("bookworm", {}),
    "box13": ("trixie", {"redis_engine": "valkey", "redis_persistence": "aof"}),
}
NETWORK = "redkeep_internal"
ADDRESS = "sed -n 's/^REDIS_ADDRESS=//p' /etc/redkeep/stack/.env"
GATEWAY = "sed -n 's/^INTERNAL_GATEWAY=//p' /etc/redkeep/stack/.env"

# A container with bash, made of the host's own files: it tries a TCP connection and tells how that ended.
PROBE = r"""docker image inspect probe >/dev/null 2>&1 || { t=$(mktemp -d)
for f in /bin/bash /usr/bin/timeout; do echo $f; ldd $f | grep -o '/[^ ]*'; done | sort -u | while read -r f; do
install -D -m 0755 "$f" "$t$f"; done
tar -C "$t" -c . | docker import - probe >/dev/null; rm -rf "$t"; }"""

# The engine takes a registry on a loopback address without TLS.
REGISTRY = """[ -x /usr/bin/docker-registry ] || { apt-get -q -y install --no-install-recommends docker-registry >/dev/null 2>&1
systemctl disable --now docker-registry >/dev/null 2>&1 || true; }
pgrep -x docker-registry >/dev/null || {
printf "version: 0.1\\nstorage: {filesystem: {rootdirectory: /var/lib/reg}}\\nhttp: {addr: 127.0.0.1:5000}\\n" > /root/reg.yml
systemd-run --quiet --unit reg docker-registry serve /root/reg.yml; sleep 2; }"""

CREDENTIALS = "grep REDIS_PASSWORD /etc/redkeep/cache.env; cat /etc/redkeep/tls/ca.crt"


@dataclass(frozen=True)
class Box:
    """A host whose Redis runs in a container, and its deployment."""

    host: Host
    deployment: Deployment
    engine: str
    keeps: bool

    def address(self) -> str:
        return self.host.check(ADDRESS)

    def container(self) -> dict[str, object]:
        ids = self.host.check("docker ps --all --quiet --filter label=com.docker.compose.service=redis").split()
        assert len(ids) == 1
        return dict(json.loads(self.host.check(f"docker inspect {ids[0]}"))[0])

    def identity(self) -> tuple[object, object]:
        """Another one when the container was replaced or restarted."""
        found = self.container()
        return found["Id"], found["State"]["StartedAt"]  # type: ignore[index]

    def reaches(self, network: str, address: str, port: int) -> bool:
        """Whether a container on a network gets a TCP connection."""
        script = f"timeout 3 bash -c '</dev/tcp/{address}/{port}'"
        return self.host.run(f"docker run --rm --network {network} probe /bin/bash -c \"{script}\"").code == 0

    def push(self, image: str) -> str:
        """Put an image into a registry on the host itself, and return its reference by digest."""
        self.host.check(REGISTRY)
        self.host.check(f"docker tag {image} 127.0.0.1:5000/some && docker push --quiet 127.0.0.1:5000/some")
        found = self.host.check("docker image inspect --format '{{join .RepoDigests \" \"}}' 127.0.0.1:5000/some").split()
        self.host.check("docker rmi 127.0.0.1:5000/some")
        return next(name for name in found if name.startswith("127.0.0.1:5000/some@"))

    def answers(self, *, seconds: float = 120) -> bool:
        """Whether the app's package proves every control, waiting for it."""
        deadline = time.monotonic() + seconds
        while self.host.run("redkeep status").code:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True


# The short run has the older engine with compose 1; the long one has both.
@pytest.fixture(scope="module", params=["box12", pytest.param("box13", marks=pytest.mark.soak)])
def box(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A bare host, deployed to once."""
    name = str(request.param)
    suite, knobs = BOXES[name]
    lab.ensure([Spec(name, suite, docker=True)])
    folder = tmp_path_factory.mktemp(name)
    data = {name: {"package_source": "wheelhouse", "redis_runtime": "docker"} | knobs}
    path = write_inventory(folder / f"{name}.py", {"redis": [lab[name]], "app": [lab[name]]}, data=data)
    engine, keeps = str(knobs.get("redis_engine", "redis")), "redis_persistence" in knobs
    made = Box(lab[name], Deployment(path, folder / "secrets"), engine, keeps)
    made.deployment.run().ok()
    made.host.check(PROBE)
    yield made
    lab.remove(name)


def test_the_app_proves_every_control(box: Box) -> None:
    """After one run the host's package proves an encrypted write and read, and every control, the container's process too."""
    status = box.host.run("redkeep status --json")
    assert status.code == 0, status.out
    states = {control["name"]: control["state"] for control in json.loads(status.out)["controls"]}
    assert ("ok", "ok") == (states["server process"], states["server sandbox"])


def test_a_second_run_changes_nothing(box: Box) -> None:
    """The second run mends nothing, and the container is the same and was not restarted."""
    before = box.identity()
    run = box.deployment.run().ok()
    assert (run.changed_operations, run.mended) == (0, {})
    assert before == box.identity()
    assert box.deployment.run("status").ok().drift == {}


def test_compose_by_hand_changes_nothing(box: Box) -> None:
    """The compose.yaml on the host alone describes the stack: compose's own `up -d` leaves the container as it is."""
    before = box.identity()
    box.host.check("redkeep-stack up -d")
    assert before == box.identity()


def test_only_the_allowed_paths_are_open(box: Box) -> None:
    """From its network the server's port alone answers; other networks, the outside, other accounts and the way back do not."""
    box.host.check("docker network inspect other >/dev/null 2>&1 || docker network create other >/dev/null")
    address, gateway = box.address(), box.host.check(GATEWAY)
    stranger = "setpriv --reuid=65534 --clear-groups timeout 3"
    found = {
        "app's network": box.reaches(NETWORK, address, 6380),
        "host's root": box.host.run(f"timeout 3 bash -c '</dev/tcp/{address}/6380'").code == 0,
        "another network": box.reaches("other", address, 6380),
        "default network": box.reaches("bridge", address, 6380),
        "plaintext port": box.reaches(NETWORK, address, 6379),
        "another account of the host": box.host.run(f"{stranger} bash -c '</dev/tcp/{address}/6380'").code == 0,
        "the host's sshd": box.reaches(NETWORK, gateway, 22),
        "the outside": box.reaches(NETWORK, box.host.address, 22),
    }
    assert found == dict.fromkeys(found, False) | {"app's network": True, "host's root": True}


def test_another_host_does_not_reach_it(box: Box, lab: Lab) -> None:
    """A neighbour that routes to the container by this host gets no connection."""
    neighbour = lab["peer"] if "peer" in lab.hosts else lab.start("peer")
    route = f"{box.address()}/32"
    neighbour.check(f"ip route replace {route} via {box.host.address}")
    assert neighbour.run(f"timeout 3 bash -c '</dev/tcp/{box.address()}/6380'").code != 0
    neighbour.check(f"ip route del {route}")


def test_the_server_reaches_nothing(box: Box) -> None:
    """From inside the server's container neither the host, nor the lab's network, nor a resolver answers."""
    box.host.check("redkeep-stack exec -T redis true 2>/dev/null || true")
    for target in (box.host.check(GATEWAY), box.host.address, "example.org"):
        said = box.host.run(f"timeout 6 docker exec {box.container()['Id']} {box.engine}-cli -h {target} -p 22 PING")
        assert "PONG" not in said.out
        assert said.code != 0


def test_the_container_has_no_rights_it_does_not_need(box: Box) -> None:
    """What the container checks of docker-bench-security ask: user, root, capabilities, limits, ports, health, restarts."""
    found = box.container()
    config, host = found["Config"], found["HostConfig"]
    assert config["User"] not in ("", "0", "root")  # type: ignore[index]
    assert config["Healthcheck"]["Test"][0] == "CMD"  # type: ignore[index]
    expected = {"ReadonlyRootfs": True, "Privileged": False, "CapDrop": ["ALL"], "CapAdd": None, "PidsLimit": 64}
    assert {key: host[key] for key in expected} == expected  # type: ignore[index]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]  # type: ignore[index]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 5}  # type: ignore[index]
    assert host["Memory"] == host["MemorySwap"] > 0  # type: ignore[index]
    assert host["NanoCpus"] > 0 < host["CpuShares"]  # type: ignore[index]
    assert not host["PortBindings"]  # type: ignore[index]
    assert host["PidMode"] == host["UTSMode"] == host["UsernsMode"] == ""  # type: ignore[index]
    assert host["IpcMode"] == "private"  # type: ignore[index]


def test_the_health_check_holds(box: Box) -> None:
    """The engine's own check finds the server well."""
    deadline = time.monotonic() + 120
    while (state := box.container()["State"]["Health"]["Status"]) == "starting" and time.monotonic() < deadline:  # type: ignore[index]
        time.sleep(1)
    assert state == "healthy"


def test_no_secret_is_shown(box: Box) -> None:
    """No password stands in docker inspect, the image's history, .env, compose.yaml or a process's arguments."""
    shown = box.host.check(
        "docker inspect $(docker ps -aq); docker image inspect $(docker image ls -q redkeep/redis);"
        " docker history --no-trunc $(docker image ls -q redkeep/redis); cat /etc/redkeep/stack/* /etc/redkeep/stack/.env;"
        " cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    )
    secrets = box.host.check(
        f"cat /etc/redkeep/operator/password /etc/{box.engine}/health/password; echo;"
        " grep -E 'PASSWORD|KEYS=' /etc/redkeep/cache.env | cut -d= -f2-"
    ).split()
    assert len(secrets) >= 4
    assert [secret for secret in secrets if secret in shown] == []


# As a user's program does: its environment is the file that quickstart wrote.
WRITE_AND_READ = """import asyncio
from redkeep import SecureAIResponseCache
async def main():
    async with SecureAIResponseCache.from_settings() as cache:
        await cache.cache_response('text', 'summarize', {}, {'answer': 42})
        cache.memory_cache.clear()
        print((await cache.get_cached_response('text', 'summarize', {}))['answer'])
asyncio.run(main())"""


def test_a_quickstart_needs_nothing_but_compose(box: Box) -> None:
    """On the same engine, beside the deployed stack: `redkeep quickstart`, compose's own `up -d`, and a client writes and
    reads; without a port at first, then by one that only the loopback address has."""
    image = box.host.check("docker image ls --format '{{.Repository}}:{{.Tag}}' redkeep/redis")
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
        ("docker network connect other $(docker ps -q --filter name=redis)", "is on the network other as well"),
        ("nft flush table inet redkeep", "the firewall's rules in the kernel"),
        ("docker stop $(docker ps -q --filter name=redis)", "wanted running"),
        (f"{CLI} CONFIG SET maxclients 20", "running setting maxclients"),
    ],
)
def test_a_change_by_hand_is_named_and_mended(box: Box, change: str, named: str) -> None:
    """The status names the change, the next run mends that one thing, and then all is as wanted."""
    box.host.check("docker network inspect other >/dev/null 2>&1 || docker network create other >/dev/null")
    box.host.check(change)
    status = box.deployment.run("status")
    lines = status.drift[box.host.name]
    assert len(lines) == 1, status.output
    assert named in lines[0]
    assert box.deployment.run().ok().mended == status.drift
    assert box.deployment.run("status").ok().drift == {}


def test_it_comes_back_without_hands(box: Box) -> None:
    """Redis killed in its container, the engine restarted, the host rebooted: each time all controls hold again, the
    isolation as well, and the engine's restart leaves the container running."""
    box.host.check("kill -9 $(docker inspect --format '{{.State.Pid}}' $(docker ps -q --filter name=redis))")
    assert box.answers()
    before = box.identity()
    box.host.check("systemctl restart docker")
    assert box.answers()
    assert before == box.identity()
    box.host.reboot()
    assert box.answers()
    assert not box.reaches("bridge", box.address(), 6380)
    assert box.deployment.run("status").ok().drift == {}


def test_a_switch_keeps_what_is_kept_and_goes_both_ways(box: Box, tmp_path: Path) -> None:
    """To native and back, by an image from an archive: the app's password and the authority stay, the data where it is kept, every
    control holds, nothing of the other runtime runs. An image that cannot be had or does not run leaves the native server at work."""
    before = box.host.check(CREDENTIALS)
    name = box.host.check("docker image ls --format '{{.Repository}}:{{.Tag}}' redkeep/redis")
    box.host.check(f"{CLI} SET kept here")
    path = tmp_path / "redis.tar"
    path.write_bytes(base64.b64decode(box.host.check(f"docker save {name} | base64")))
    no_server = box.push("probe")
    box.deployment.run("secure_redis", "--data", "redis_runtime=native").ok()
    assert box.answers()
    assert box.host.check("docker ps --all --quiet --filter label=com.docker.compose.project=redkeep") == ""
    for wanted, says in (
        (f"127.0.0.1:5000/none@{'sha256:' + 'a1' * 32}", "cannot be pulled"),
        (no_server, f"does not run {box.engine}-server"),
        (f"{tmp_path}/none.tar", "cannot be read: No such file or directory"),
    ):
        run = box.deployment.run("secure_redis", "--data", f"container_image={wanted}")
        assert run.code != 0
        assert says in run.output
        assert box.host.check(f"systemctl is-active {box.engine}-server").strip() == "active"
    assert box.answers()
    box.deployment.run("secure_redis", "--data", f"container_image={path}").ok()
    assert box.answers()
    assert ":archive-" in str(box.container()["Config"]["Image"])  # type: ignore[index]
    assert box.host.run(f"systemctl is-active {box.engine}-server").out.strip() != "active"
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
    assert len(box.host.check("docker image ls --quiet redkeep/redis").split()) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("container_subnet=172.17.0.0/24", "overlaps with 172.17.0.0/16"),
        ("container_memory=1mb", "leaves no room beside redis_maxmemory"),
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
    assert "it has the settings back that it had before" in run.output
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
    assert box.host.run(f"ls /etc/redkeep /etc/{box.engine} /var/lib/redkeep /etc/docker/daemon.json 2>/dev/null").out == ""
    assert box.host.run("nft list tables 2>/dev/null | grep redkeep").out == ""
