"""The API and the dashboard as containers of the stack, without a host: what they may take, what makes them others, who is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploys import stack
from deploys.facts.docker import Container, DockerState, Network
from deploys.facts.survey import FileState
from deploys.stages import api, app_containers, app_images, containers, image
from redkeep.crypto.pki import Leaf
from redkeep.environment import read_env_file
from redkeep.errors import ConfigurationError
from redkeep.stack import compose
from tests.unit.wanted import FakeCredentials, FakeSite, authority, bundle, data, survey, there

ALL = {"redis_runtime": "docker", "api_enabled": True, "dashboard_enabled": True}
ENGINE: dict[str, Any] = {"server": "20.10.24", "compose": "docker-compose", "identity": "100:102", "processors": 2, "room": 9 * 2**20}
BRIDGE_NAME = "com.docker.network.bridge.name"
APP = {"app_identity": "990:991", "app_group": "992"}


class SteadyCredentials(FakeCredentials):
    """The same certificates each time, as the deploy's are."""

    def api_server(self, host: str) -> Leaf:
        return LEAF

    def client(self, service: str, host: str) -> Leaf:
        return LEAF


LEAF = authority().issue(["any"], use="server", days=60, common_name="any")


def site(**knobs: Any) -> Any:
    return FakeSite(bundle(**(ALL | knobs)), SteadyCredentials())


def found(files: dict[str, FileState] | None = None, **docker: Any) -> Any:
    return survey(docker=DockerState(**(ENGINE | APP | docker)), files=files or {})


def values(**knobs: Any) -> dict[str, str]:
    return containers.values(site(**knobs), found())


@pytest.mark.parametrize("knobs", [{}, {"dashboard_enabled": False}, {"api_enabled": False, "dashboard_enabled": False}])
def test_every_variable_has_a_value(knobs: dict[str, Any]) -> None:
    """The compose files that .env names hold no variable that it has not, and it has none that they do not use."""
    given = values(**knobs)
    names = given.get("COMPOSE_FILE", "compose.yaml").split(":")
    used = set(re.findall(r"\$\{(\w+):\?\}", "".join(compose.text(name).decode() for name in names)))
    assert used == set(given) - {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}
    assert all(given.values())
    assert 1 + bool(given.get("API_SPEC")) + bool(given.get("DASHBOARD_SPEC")) == len(names)


def test_limits_are_those_of_the_compose_files() -> None:
    """What the deploy compares is what the text asks for."""
    for name, limits in compose.LIMITS.items():
        text = compose.text(f"compose.{name}.yaml").decode()
        wanted = {"mem_limit": f"{limits.memory // 2**20}m", "memswap_limit": f"{limits.memory // 2**20}m", "cpus": f"'{limits.cpus}'"}
        wanted |= {"pids_limit": str(limits.processes)}
        assert wanted == {key: found[1] for key in wanted if (found := re.search(rf"^    {key}: (.*)$", text, re.MULTILINE))}
        inside = {"api": stack.API_PORT, "dashboard": stack.DASHBOARD_PORT}[name]
        assert f"PUBLISHED:?}}:{inside}'" in text


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        ({"api_port": 9000}, {"API_SPEC"}),
        ({"dashboard_port": 9000}, {"DASHBOARD_SPEC"}),
        ({"cache_namespace": "tenant"}, {"API_SPEC"}),
        ({"redis_maxclients": 500}, {"REDIS_SPEC"}),
        ({"api_reachable": ["10.0.0.1"]}, set()),
    ],
)
def test_a_knob_replaces_the_container_that_it_concerns(change: dict[str, Any], replaced: set[str]) -> None:
    """And no other."""
    before, now = (containers.values(site(**knobs), found()) for knobs in ({}, change))
    assert replaced == {spec for spec in ("REDIS_SPEC", "API_SPEC", "DASHBOARD_SPEC") if before[spec] != now[spec]}


def test_what_the_people_of_a_host_set_makes_another_container() -> None:
    """A changed local.env is read by a new one; it is read where it is there, and takes nothing away."""
    states = [found({api.LOCAL: FileState("file", "0640", "root", "root", digest)}) for digest in ("aa", "bb", "aa")]
    specs = [containers.values(site(), state)["API_SPEC"] for state in states]
    assert specs[0] == specs[2] != specs[1]


def test_its_environment_is_true_inside(tmp_path: Path) -> None:
    """By the package's own reader: the server's name, the mounted files, the monitor's password, and what local.env adds."""
    local = tmp_path / "local.env"
    local.write_text("SECURITY_ALERT_EMAIL=ops@example.com\n")
    path = tmp_path / "cache.env"
    wanted = app_containers.environment(site(), found()) | {"REDKEEP_LOCAL_FILE": str(local)}
    path.write_text("".join(f"{name}={value}\n" for name, value in wanted.items()))
    read = read_env_file(path)
    assert ("rediss://redis:6380/0", "/etc/redkeep/client.key") == (read["REDIS_URL"], read["REDIS_TLS_KEY_FILE"])
    assert ("word-of-monitor", "ops@example.com") == (read["REDIS_MONITOR_PASSWORD"], read["SECURITY_ALERT_EMAIL"])
    local.write_text("REDIS_URL=redis://elsewhere\n")
    with pytest.raises(ConfigurationError, match=r"local\.env: REDIS_URL is already set in .*cache\.env"):
        read_env_file(path)
    local.unlink()
    assert "SECURITY_ALERT_EMAIL" not in read_env_file(path)


@pytest.mark.parametrize(
    ("knobs", "part"),
    [
        ({"redis_runtime": "native"}, "set redis_runtime to docker, or set dashboard_enabled to False"),
        ({"api_enabled": False}, "needs the API, which is off"),
        ({"dashboard_port": 8765}, "share the port 8765: change dashboard_port"),
    ],
)
def test_a_dashboard_needs_an_api_in_a_container(knobs: dict[str, Any], part: str) -> None:
    """One sentence with the next step."""
    with pytest.raises(ConfigurationError, match=part):
        bundle(**(ALL | knobs))


def test_the_two_networks_do_not_overlap() -> None:
    """The edge is the next free one; a knob that overlaps with the server's is refused, and one noted before gives way to it."""
    mine = bundle(**ALL)
    assert ("10.213.0.0/28", "10.213.0.16/28") == tuple(map(str, vars(stack.plan(mine, DockerState())).values()))
    clash = bundle(**ALL, container_subnet="10.9.8.0/28", container_edge_subnet="10.9.8.0/24")
    with pytest.raises(ConfigurationError, match=r"container_edge_subnet 10\.9\.8\.0/24 overlaps with 10\.9\.8\.0/28"):
        stack.plan(clash, DockerState())
    noted = DockerState(env={"EDGE_SUBNET": "10.213.0.0/28", "INTERNAL_SUBNET": "10.213.0.0/28"})
    assert not stack.plan(mine, noted).internal.overlaps(stack.plan(mine, noted).edge)


def container(service: str, given: dict[str, str], **changes: Any) -> Container:
    wanted = next(one for one in stack.services(bundle(**ALL), given) if one.name == service)
    port = {f"{wanted.port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(wanted.published)}]} if wanted.port else {}
    host = {
        "Memory": wanted.limits.memory,
        "MemorySwap": wanted.limits.memory,
        "NanoCpus": int(wanted.limits.cpus * 1e9),
        "PidsLimit": wanted.limits.processes,
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 5},
        "PortBindings": port,
    }
    return Container(
        {
            **{"Id": service, "Name": f"/redkeep_{service}_1", "Image": f"id-{service}"},
            "Config": {"User": wanted.user, "Labels": {"redkeep.spec": wanted.spec, "com.docker.compose.service": service}},
            "State": {"Running": True, "Status": "running"},
            "HostConfig": host | changes.get("host", {}),
            "NetworkSettings": {"Networks": changes.get("networks", {name: {} for name in wanted.networks})},
        }
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, ""),
        ({"host": {"PortBindings": {"8765/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8765"}]}}}, "publishes other ports than it should"),
        ({"host": {"CapAdd": ["NET_ADMIN"]}}, "has capabilities"),
        ({"networks": {stack.EDGE: {}}}, "is not on the network redkeep_internal"),
        ({"networks": {stack.EDGE: {}, stack.INTERNAL: {}, "bridge": {}}}, "is also on the network bridge"),
    ],
)
def test_the_api_s_container_is_compared(changes: dict[str, Any], part: str) -> None:
    """Ports, rights and networks; as it was made, nothing is at fault."""
    given = values()
    wanted = next(one for one in stack.services(bundle(**ALL), given) if one.name == "api")
    assert [part] * bool(part) == list(stack.container_faults(container("api", given, **changes), wanted, "id-api"))


EDGE_AGAIN = [
    "docker stop id-api",
    "docker rm --force id-api",
    "docker network disconnect --force redkeep_edge guest",
    "docker network rm redkeep_edge",
]


@pytest.mark.parametrize(
    ("knobs", "said", "done"),
    [
        ({}, "", []),
        (
            {"container_edge_subnet": "10.9.8.0/28"},
            "network redkeep_edge has the addresses 10.213.0.16/28, wanted 10.9.8.0/28",
            [*EDGE_AGAIN, "redkeep-stack up -d --no-deps api", "docker network connect redkeep_edge guest"],
        ),
        (
            {"container_subnet": "10.213.0.16/28"},
            "network redkeep_internal has the addresses 10.213.0.0/28, wanted 10.213.0.16/28; network redkeep_edge has",
            [
                *(line.replace("edge", "internal").replace("id-api", "id-redis id-api") for line in EDGE_AGAIN),
                *EDGE_AGAIN,
                *(f"redkeep-stack up -d --no-deps {service}" for service in ("redis", "api")),
                *(f"docker network connect redkeep_{name} guest" for name in ("internal", "edge")),
            ],
        ),
    ],
)
def test_a_network_is_made_anew_with_what_is_on_it(knobs: dict[str, Any], said: str, done: list[str], tmp_path: Path) -> None:
    """Another edge leaves Redis alone, which without persistence would be empty. What others have put on a network is put back."""
    given = values()
    networks = tuple(
        Network({"Name": name, "Internal": inside, "IPAM": {"Config": [{"Subnet": subnet}]}, "Options": {BRIDGE_NAME: bridge}})
        for name, inside, subnet, bridge in (
            (stack.INTERNAL, True, given["INTERNAL_SUBNET"], stack.BRIDGE),
            (stack.EDGE, False, given["EDGE_SUBNET"], stack.EDGE_BRIDGE),
        )
    )
    differences = list(containers.network(site(**knobs), found(networks=networks, env=given)))
    assert [True] * bool(said) == [difference.what.startswith(said) for difference in differences]
    answers = """case "$*" in
    "network inspect"*) printf 'redkeep_api_1\\nguest\\n\\n' ;;
    *"--format {{.Names}}"*) printf 'redkeep_api_1\\nredkeep_redis_1\\n' ;;
    *"--filter network=redkeep_internal"*) echo id-redis id-api ;;
    *"--filter network=redkeep_edge"*) echo id-api ;;
    "ps --all --quiet"*) echo id-new ;;
esac"""
    for name, script in (("docker", answers), ("redkeep-stack", ":"), ("redkeep-cli", "echo PONG")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n{script}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    for difference in differences:
        script = difference.script.replace("/usr/local/sbin/redkeep", str(tmp_path / "redkeep"))
        ended = subprocess.run(["sh", "-euc", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False)
        assert 0 == ended.returncode, ended.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert done == [line for line in asked if not re.match(r"docker (ps|exec|inspect|network inspect)|redkeep-cli", line)][: len(done)]
    assert not any(" down" in line for line in asked)


def test_what_is_not_wanted_any_more_goes() -> None:
    """Containers, the edge network, compose files and folders of an API and a dashboard that were turned off."""
    mine, given = FakeSite(bundle(redis_runtime="docker")), values()
    edge = Network({"Name": stack.EDGE, "Internal": False, "IPAM": {"Config": []}, "Options": {}})
    files = {path: there() for path in (f"{stack.FOLDER}/compose.api.yaml", stack.DASHBOARD_FOLDER, api.FOLDER)}
    state = found(files, containers=tuple(container(name, given) for name in ("api", "dashboard")), networks=(edge,))
    said = [difference.what for difference in containers.containers(mine, state)]
    assert ["container redis is missing", "container redkeep_api_1", "container redkeep_dashboard_1"] == [
        sentence.removesuffix(" is not part of the stack") for sentence in said
    ]
    gone = " ".join(difference.script for difference in containers.leftovers(mine, state))
    assert all(word in gone for word in (stack.EDGE, "compose.api.yaml", stack.DASHBOARD_FOLDER))
    assert ["folder /etc/redkeep/api exists although api_enabled is False"] == [one.what for one in api.unwanted(mine, state)]
    assert [] == list(containers.leftovers(site(), state))


@pytest.mark.parametrize(("contained", "goes"), [(True, "monitor-password"), (False, "cache.env")])
def test_the_api_changes_its_runtime(contained: bool, goes: str) -> None:
    """What only the other way of serving it needs goes; the key and local.env stay."""
    mine = site() if contained else FakeSite(bundle(api_enabled=True))
    names = ("key", "monitor-password", "api.env", "local.env", "client.key", *api.CONTAINED)
    files = {f"{api.FOLDER}/{name}": there() for name in names}
    script = " ".join(difference.script for difference in api.other_way(mine, found(files)))
    assert f"{api.FOLDER}/{goes}" in script
    assert not any(f"{api.FOLDER}/{name}" in script for name in ("key ", "local.env", "client.key"))


def test_images_that_a_person_made_stay() -> None:
    """Only names that a deploy gives are cleared away, and the base while something is built on it."""
    theirs = {"localhost/redkeep/api:latest": "a"}
    mine, state = site(), found(images=theirs | {f"localhost/redkeep/{name}:debian-{'0' * 16}": name for name in ("api", "python")})
    base = app_images.base(state)
    state = found(images={**state.docker.images, base: "b"})
    assert ["localhost/redkeep/api:debian-" + "0" * 16, "localhost/redkeep/python:debian-" + "0" * 16] == [
        difference.what.split()[1] for difference in app_images.old_images(mine, state)
    ]
    mine = site(container_image=f"registry.example/redis@sha256:{'a' * 64}")
    twice = {f"{image.REPOSITORY}:registry-{'a' * 16}": "same", f"{image.REPOSITORY}:debian-{'b' * 16}": "same"}
    assert [f"image {image.REPOSITORY}:debian-{'b' * 16} is no longer in use"] == [
        difference.what for difference in app_images.old_images(mine, found(images=twice))
    ]


def test_no_public_registry_knows_the_names_of_our_images() -> None:
    """Plain compose pulls what is missing: a name that begins with a host leads there, here to the machine itself."""
    mine, state = site(), found()
    names = [image.reference(mine, state), app_images.base(state)]
    names += [app_images.reference(mine, state, extra) for extra in app_images.wanted(mine)]
    assert [] == [name for name in names if not name.startswith("localhost/redkeep/")]
    assert len(names) == 4


def test_room_for_every_image_is_asked_for_first() -> None:
    """The sum of what is missing; an archive that is none is named by its knob."""
    assert "3072 MiB are needed" in app_images.problem(site(), found(room=2**20))
    assert "" == app_images.problem(site(), found())
    with pytest.raises(ConfigurationError, match=r"api_image: .*none\.tar cannot be read"):
        app_images.problem(site(api_image="images/none.tar"), found())
    assert data()["api_image"] == ""
