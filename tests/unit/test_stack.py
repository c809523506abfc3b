"""The stack as values: free networks, limits, what makes a container another one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploys import stack
from deploys.facts.docker import SETTINGS_FILE, DockerState, Network, docker_of, sections
from deploys.rendering import render
from deploys.stages.container_engine import SETTINGS, merged
from redkeep.errors import ConfigurationError
from redkeep.stack import compose
from tests.unit.wanted import bundle, data

MEMORY = 2**31
SERVER_NETWORK: dict[str, Any] = {"subnet": "10.213.0.0/28", "bridge": stack.BRIDGE, "internal": True}


def state(**changes: Any) -> DockerState:
    return DockerState(**({"identity": "100:102", "processors": 2} | changes))


def other(subnet: str, name: str = "other") -> Network:
    return Network({"Name": name, "Internal": True, "IPAM": {"Config": [{"Subnet": subnet}]}, "Options": {}})


def variables(**knobs: Any) -> dict[str, str]:
    made = bundle(redis_runtime="docker", **knobs)
    return stack.variables(made, state(), image="localhost/redkeep/redis:x", memory_bytes=MEMORY)


def test_the_first_free_network_is_taken_and_kept() -> None:
    """Networks of the engine and routes of the host are left out; the one noted before stays."""
    mine = bundle(redis_runtime="docker")
    assert "10.213.0.0/28" == str(stack.plan(mine, state()).internal)
    busy = state(networks=(other("10.213.0.0/28"),), routes=("10.213.0.16/28",))
    assert "10.213.0.32/28" == str(stack.plan(mine, busy).internal)
    kept = state(env={"INTERNAL_SUBNET": "10.213.0.64/28"})
    assert "10.213.0.66" == stack.plan(mine, kept).redis


@pytest.mark.parametrize("written", ["", "nonsense", "10.213.0.65/28", "10.213.0.64/99", "::/64"])
def test_a_record_that_was_garbled_by_hand_is_mended(written: str) -> None:
    """The network that the engine has is the one; without it the first free one, and no traceback."""
    mine, garbled = bundle(redis_runtime="docker"), {"INTERNAL_SUBNET": written}
    there = other("10.213.0.64/28", stack.INTERNAL)
    assert "10.213.0.64/28" == str(stack.plan(mine, state(env=garbled, networks=(there,), routes=("10.213.0.64/28",))).internal)
    assert "10.213.0.0/28" == str(stack.plan(mine, state(env=garbled)).internal)


def test_a_host_whose_routes_cover_the_usual_corner_gets_another() -> None:
    """A route to all of 10.0.0.0/8, as company networks have, leaves a network elsewhere; where none is left the knob is named."""
    mine = bundle(redis_runtime="docker")
    wide = ("10.0.0.0/8",)
    assert ("192.168.213.0/28", "192.168.213.16/28") == tuple(map(str, vars(stack.plan(mine, state(routes=wide))).values()))
    with pytest.raises(ConfigurationError, match=r"no network is free in .*: name one with container_subnet"):
        stack.plan(mine, state(routes=(*wide, "192.168.0.0/16")))


def test_a_bridge_that_is_written_with_its_own_address_is_understood() -> None:
    """An engine shows its setting `bip` as it was given."""
    mine = bundle(redis_runtime="docker", container_subnet="10.9.8.0/28")
    with pytest.raises(ConfigurationError, match=r"overlaps with 10\.9\.8\.0/24"):
        stack.plan(mine, state(networks=(other("10.9.8.1/24", "bridge"),)))


def test_a_network_in_use_is_refused() -> None:
    """The sentence names the knob and what has the network; our own network is no obstacle."""
    mine = bundle(redis_runtime="docker", container_subnet="10.9.8.0/28")
    with pytest.raises(ConfigurationError, match=r"container_subnet 10\.9\.8\.0/28 overlaps with 10\.9\.0\.0/16"):
        stack.plan(mine, state(networks=(other("10.9.0.0/16"),)))
    own = state(networks=(other("10.9.8.0/28", stack.INTERNAL),), routes=("10.9.8.0/28",))
    assert "10.9.8.2" == stack.plan(mine, own).redis


def test_the_default_bridge_of_an_engine_to_come_is_taken() -> None:
    """A host without an engine gets one, and with it docker0; an engine that is there shows what it really has."""
    mine = bundle(redis_runtime="docker", container_subnet="172.17.3.0/28")
    said = r"container_subnet 172\.17\.3\.0/28 overlaps with 172\.17\.0\.0/16"
    with pytest.raises(ConfigurationError, match=said):
        stack.plan(mine, state())
    with pytest.raises(ConfigurationError, match=r"container_edge_subnet 172\.17\.0\.0/28 overlaps"):
        stack.plan(bundle(redis_runtime="docker", container_edge_subnet="172.17.0.0/28"), state())
    assert "172.17.3.2" == stack.plan(mine, state(server="20.10.24", networks=(other("192.168.9.0/24", "bridge"),))).redis
    chosen = state(settings={"bip": "10.9.8.1/24"})
    assert "172.17.3.2" == stack.plan(mine, chosen).redis
    with pytest.raises(ConfigurationError, match=r"overlaps with 10\.9\.8\.0/24"):
        stack.plan(bundle(redis_runtime="docker", container_subnet="10.9.8.0/28"), chosen)
    stopped = state(env={"INTERNAL_SUBNET": "10.9.0.0/28"}, routes=("10.9.0.0/28",))
    assert "10.9.0.2" == stack.plan(bundle(redis_runtime="docker", container_subnet="10.9.0.0/28"), stopped).redis


def test_the_specification_follows_the_server_s_variables_alone() -> None:
    """Another limit means another container; the network's variables do not stand in the server's text."""
    plain = variables()
    assert plain["REDIS_SPEC"] != variables(container_memory="1700mb")["REDIS_SPEC"]
    assert plain["REDIS_SPEC"] == compose.specification("redis", plain | {"REDIS_SPEC": "", "INTERNAL_BRIDGE": "another"})


def test_every_variable_of_compose_has_a_value() -> None:
    """compose.yaml names no variable that .env has not, and .env none that compose.yaml does not use."""
    import re

    text = compose.text("compose.yaml").decode()
    used = set(re.findall(r"\$\{(\w+):\?\}", text))
    assert used == {name for name in variables() if name != "COMPOSE_PROJECT_NAME"}
    assert ["$$@"] == re.findall(r"\$\S*?@|\$\w+", re.sub(r"\$\{\w+:\?\}", "", text))


def test_the_container_has_room_beside_its_data() -> None:
    """Half as much again by default; a limit that leaves none is refused."""
    mine = bundle(redis_runtime="docker", redis_maxmemory="100mb")
    assert 150 * 2**20 + 64 * 2**20 == stack.memory_limit(mine, MEMORY)
    with pytest.raises(ConfigurationError, match="container_memory 120mb leaves too little room"):
        stack.memory_limit(bundle(redis_runtime="docker", redis_maxmemory="100mb", container_memory="120mb"), MEMORY)


def test_a_container_serves_its_own_host_alone() -> None:
    """Whoever wants it from elsewhere is named."""
    with pytest.raises(ConfigurationError, match="only its own host can reach, but the knob allowed_clients"):
        bundle(redis_runtime="docker", allowed_clients=["10.0.0.0/8"])
    assert data()["redis_runtime"] == "native"


def test_a_stack_without_its_firewall_is_refused() -> None:
    """The rules are what keeps the host's other accounts, other containers and the outside away: the two knobs and what to do are named."""
    with pytest.raises(ConfigurationError, match="of @local runs in a container, which only the firewall isolates: set firewall to True, or"):
        bundle(redis_runtime="docker", firewall=False)
    assert not bundle(firewall=False).knobs.firewall


def test_ipv6_that_the_api_s_container_cannot_reach_is_refused() -> None:
    """Its networks have IPv4 alone: the entry is named before any host is touched; without the API, or as a service, it disturbs nobody."""
    listed = {"api_reachable": ["10.0.0.0/8", "2001:db8::/32"]}
    with pytest.raises(ConfigurationError, match=r"in a container that has IPv4 alone, but api_reachable lists 2001:db8::/32: remove it"):
        bundle(redis_runtime="docker", api_enabled=True, **listed)
    for other in ({"redis_runtime": "docker"}, {"api_enabled": True}):
        assert listed["api_reachable"] == list(bundle(**listed, **other).knobs.api_reachable)


def test_a_network_with_a_way_out_is_at_fault() -> None:
    """Internal, subnet, bridge and options are compared."""
    raw = {"Name": stack.INTERNAL, "Internal": False, "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}
    faults = list(stack.network_faults(Network(raw | {"Options": {"x.icc": "true"}}), **SERVER_NETWORK))
    assert ["outside access", "10.1.0.0/24", "without a name", "x.icc"] == [
        next(word for word in ("outside access", "10.1.0.0/24", "without a name", "x.icc") if word in fault) for fault in faults
    ]


def test_the_engine_s_other_settings_are_kept() -> None:
    """Ours win where they contradict."""
    assert {"data-root": "/srv", **SETTINGS} == merged({"data-root": "/srv", "icc": True})


def test_what_the_engine_says_is_understood() -> None:
    """Versions, our containers, others that run, networks; broken settings are None."""
    mine = {"Id": "a", "Config": {"Labels": {"com.docker.compose.service": "redis"}}, "State": {"Running": True, "Status": "running"}}
    found = docker_of(
        {
            "docker": ["server 20.10.24+dfsg1", "compose docker-compose", "identity 100:102", "processors 4", "room 900"],
            "running": ["a", "b"],
            "containers": json.dumps([mine], indent=1).splitlines(),
            "networks": ["[]"],
            "settings": ["broken"],
            "stack": ["# text", "REDIS_ADDRESS=10.0.0.2"],
            "routes": ["default", "10.0.0.0/8"],
        }
    )
    assert ((20, 10), 1, None, "100:102") == (found.version, found.foreign, found.settings, found.identity)
    assert {"REDIS_ADDRESS": "10.0.0.2"} == found.env
    assert ("10.0.0.0/8",) == found.routes
    assert found.container("redis") is not None
    assert DockerState() == docker_of({"settings": ["{}"]})
    assert [None, None] == [docker_of({"settings": [line]}).settings for line in ("[1]", '"text"')]
    assert [None, 0, 900] == [docker_of({"docker": [line]}).room for line in ("room ", "room 0", "room 900")]


def test_a_folder_of_the_same_name_hides_no_image(tmp_path: Path) -> None:
    """The pattern of our images reaches the engine as it is, whatever lies in the folder where root's shell starts."""
    (tmp_path / "localhost/redkeep").mkdir(parents=True)
    (tmp_path / "localhost/redkeep/README.md").touch()
    (tmp_path / "docker").write_text('#!/bin/sh\n[ "$1" != image ] || echo "$@" >> asked\n')
    (tmp_path / "docker").chmod(0o755)
    script = "\n".join(sections(stack.FOLDER, "root", (), ("/bin/true",), "@@"))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=path, capture_output=True, check=False)
    assert "localhost/redkeep/*" == (tmp_path / "asked").read_text().split()[-1]


@pytest.mark.parametrize(
    ("told", "settings", "measured"),
    [
        ("told", "", "told"),
        ("told", '{"data-root": "FOLDER/set"}', "told"),
        ("", '{"icc": false, "data-root": "FOLDER/set"}', "set"),
        ("", '{\n  "data-root":"FOLDER/set/to/come"\n}', "set"),
    ],
)
def test_room_is_measured_where_the_engine_keeps_images(told: str, settings: str, measured: str, tmp_path: Path) -> None:
    """As the engine says, or its settings while it is stopped; of a folder that is not there yet the part that is."""
    (tmp_path / "set").mkdir()
    (tmp_path / "told").mkdir()
    (tmp_path / "daemon.json").write_text(settings.replace("FOLDER", str(tmp_path)))
    answer = f'case "$1" in info) [ -n "{told}" ] && echo {tmp_path}/{told} ;; *) exit 1 ;; esac'
    for name, script in (("docker", answer), ("df", f'echo "$2" > {tmp_path}/asked; echo; echo disk 9 8 1234 7 /')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    script = "\n".join(sections(stack.FOLDER, "root", (), ("/bin/true",), "@@")).replace(SETTINGS_FILE, str(tmp_path / "daemon.json"))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    lines = subprocess.run(["sh", "-c", script], env=path, capture_output=True, text=True, check=False).stdout.splitlines()
    found = docker_of({"docker": lines[1 : lines.index("@@versions")]})
    assert (f"{tmp_path}/{measured}\n", 1234) == ((tmp_path / "asked").read_text(), found.room)
    assert found.root.startswith(f"{tmp_path}/{measured}")


@pytest.mark.parametrize(
    ("words", "images", "engine", "asks"),
    [
        ("up -d", "localhost/redkeep/redis:x localhost/redkeep/api:y", 0, True),
        ("up -d --no-deps redis", "localhost/redkeep/redis:x", 0, False),
        ("ps", "", 0, True),
        ("up -d", "", 1, True),
    ],
)
def test_an_image_that_is_gone_is_not_asked_of_a_registry(words: str, images: str, engine: int, asks: bool, tmp_path: Path) -> None:
    """Compose pulls what is missing, and anybody may own a name there: it is not called then. An engine that is silent is its to name."""
    (tmp_path / ".env").write_text("API_IMAGE=localhost/redkeep/api:y\nREDIS_IMAGE=localhost/redkeep/redis:x\nREDIS_PORT=6380\n")
    answer = f'case "$1" in version) exit {engine} ;; *) case " {images} " in *" $3 "*) ;; *) exit 1 ;; esac ;; esac'
    for name, script in (("docker", answer), ("docker-compose", 'echo "compose $*"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    loader = render("usr/local/sbin/redkeep-stack", folder=str(tmp_path)).decode()
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", loader, "redkeep-stack", *words.split()], env=path, capture_output=True, text=True, check=False)
    assert (f"compose {words}\n" if asks else "") == done.stdout
    says = "the image localhost/redkeep/api:y is not here any more: deploy again"
    assert (0 if asks else 1, not asks) == (done.returncode, says in done.stderr)
