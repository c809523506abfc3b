"""Network paths around the containers: each is tried, from wherever on a host a connection can begin.

Bash opens the connections, in the network of a container by nsenter. A refusal counts as an answer: it has come back from the other end,
so the path is open, whether anybody listens there or not.
"""

from __future__ import annotations

import ipaddress
import json
import shlex
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from .machine import Machine

pytestmark = pytest.mark.only(runtime="docker")

Target = tuple[str, int]
INTERNAL, EDGE = "redkeep_internal", "redkeep_edge"
API_PORT, DASHBOARD_PORT = 8765, 8501  # inside the containers
OWN = "one of its own"
HAS_API, HAS_DASHBOARD = pytest.mark.only(api_runtime="container"), pytest.mark.only(dashboard=True)

# Nobody listens there, and every network has it: without this answer the closed ones would prove nothing.
LOOPBACK = {"loopback": ("127.0.0.1", 9)}

PROBE = """probe() { name=$1 end=/dev/tcp/$2/$3; shift 3
    said=$("$@" timeout 3 bash -c "<$end" 2>&1) || case $said in *refused*) ;; *) return 0 ;; esac
    echo "$name"; }
"""

# A container of the server's image, in a network that is there or in one of its own; neither outlives the script.
GUEST = """guest= made=
trap 'for one in $guest; do docker rm --force $one; done >/dev/null 2>&1; for one in $made; do docker network rm $one; done >/dev/null' EXIT
trap 'exit 1' HUP INT TERM
network=NETWORK; [ -n "$network" ] || { made=$(docker network create redkeep-verify-$$) || exit 1; network=$made; }
image=$(docker inspect --format '{{.Image}}' $(docker ps --quiet --filter label=com.docker.compose.service=redis))
guest=$(docker run --detach --rm --network "$network" --user 65534:65534 --read-only --cap-drop ALL --memory 64m \\
    --security-opt no-new-privileges --entrypoint SERVER $image --port 6399 --bind 127.0.0.1 --save '' --appendonly no) || exit 1
pid=$(docker inspect --format '{{.State.Pid}}' $guest)
"""


def _stack(machine: Machine) -> dict[str, dict[str, Any]]:
    """Each container of the stack as the engine shows it, by its service."""
    found = json.loads(machine.out("docker inspect $(docker ps --quiet --filter label=com.docker.compose.project=redkeep)"))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


def _address(container: Mapping[str, Any], network: str) -> str:
    return str(container["NetworkSettings"]["Networks"][network]["IPAddress"])


def _services(machine: Machine) -> dict[str, Target]:
    """What the stack offers on its own networks."""
    stack = _stack(machine)
    found = {"redis": (_address(stack["redis"], INTERNAL), machine.wanted.port)}
    found |= {"api": (_address(stack["api"], EDGE), API_PORT)} if machine.api else {}
    return found | ({"dashboard": (_address(stack["dashboard"], EDGE), DASHBOARD_PORT)} if machine.dashboard else {})


def _published(machine: Machine) -> dict[str, Target]:
    """The ports of the loopback address that lead into containers. The engine itself may hold their sockets: an answer tells that nothing
    stands before them; that they lead on is for test_api to ask."""
    found = {"published api": ("127.0.0.1", int(machine.wanted["api_port"]))} if machine.api else {}
    return found | ({"published dashboard": ("127.0.0.1", int(machine.wanted["dashboard_port"]))} if machine.dashboard else {})


def _own(machine: Machine) -> list[str]:
    """The addresses by which others may know the host, those on the containers' networks among them."""
    found = [ipaddress.ip_address(address) for address in sorted(machine.addresses)]
    return [str(address) for address in found if not address.is_loopback and not address.is_link_local]


def _beyond(machine: Machine) -> dict[str, Target]:
    """The host's own services, and the next host on the way out."""
    routers = machine.out("ip -4 route show default | sed -n 's/.* via \\([0-9.]*\\).*/\\1/p' | sort -u").split()
    return {f"host {address}": (address, 22) for address in _own(machine)} | {f"router {one}": (one, 22) for one in routers}


def _open(machine: Machine, targets: Mapping[str, Target], source: Iterable[str], before: str = "") -> set[str]:
    """The names of the targets that answer a source, which is a command that runs another one. They are tried side by side."""
    tries = [
        f"probe {shlex.quote(name)} {address} {port} {' '.join(source)} &" for name, (address, port) in (LOOPBACK | targets).items()
    ]
    return set(machine.lines("\n".join([PROBE, before, *tries, "wait"])))


def _inside(machine: Machine, service: str, targets: Mapping[str, Target]) -> set[str]:
    pid = _stack(machine)[service]["State"]["Pid"]
    others = {name: target for name, target in targets.items() if name != service}
    return _open(machine, others, ["nsenter", f"--net=/proc/{pid}/ns/net"])


def _guest(machine: Machine, network: str, targets: Mapping[str, Target]) -> set[str]:
    script = GUEST.replace("NETWORK", "" if network == OWN else network).replace("SERVER", f"{machine.engine}-server")
    return _open(machine, targets, ["nsenter", "--net=/proc/$pid/ns/net"], script)


def test_root_and_the_apps_users_reach_the_stack(redis_host: Machine) -> None:
    """Redis, the API and the dashboard answer them."""
    targets = _services(redis_host) | _published(redis_host)
    users = redis_host.wanted["app_users"] if "app" in redis_host.wanted.member.groups else ()
    for user in ("root", *users):
        assert {"loopback", *targets} == _open(redis_host, targets, ["runuser", "-u", shlex.quote(user), "--"]), user


def test_other_accounts_reach_the_api_alone(redis_host: Machine) -> None:
    """An account of the host that is not the app's gets no answer from Redis, nor from the dashboard."""
    targets = _services(redis_host) | _published(redis_host)
    wanted = {name for name in targets if name.endswith("api")}
    assert {"loopback", *wanted} == _open(redis_host, targets, ["runuser", "-u", "nobody", "--"])


def test_redis_reaches_nothing(redis_host: Machine) -> None:
    """From its container neither the other containers, nor the host by any address, nor what is beyond it answers."""
    assert {"loopback"} == _inside(redis_host, "redis", _services(redis_host) | _beyond(redis_host))


@HAS_API
def test_the_api_reaches_redis(redis_host: Machine) -> None:
    """And nothing of the host or beyond it, unless api_reachable lists some."""
    beyond = {} if redis_host.wanted["api_reachable"] else _beyond(redis_host)
    assert {"loopback", "redis"} == _inside(redis_host, "api", _services(redis_host) | beyond)


@HAS_DASHBOARD
def test_the_dashboard_reaches_the_api(redis_host: Machine) -> None:
    """And neither Redis, nor the host, nor what is beyond it."""
    assert {"loopback", "api"} == _inside(redis_host, "dashboard", _services(redis_host) | _beyond(redis_host))


@pytest.mark.parametrize(
    ("network", "reached"), [(INTERNAL, "redis"), pytest.param(EDGE, "api", marks=HAS_API)], ids=[INTERNAL, EDGE]
)
def test_a_container_on_a_network_of_the_stack_reaches_what_is_for_it(redis_host: Machine, network: str, reached: str) -> None:
    """On Redis' network Redis, on the edge the API; nothing else, neither the host nor what is beyond it."""
    assert {"loopback", reached} == _guest(redis_host, network, _services(redis_host) | _beyond(redis_host))


@pytest.mark.parametrize("network", ["bridge", OWN])
def test_other_containers_reach_nothing_of_the_stack(redis_host: Machine, network: str) -> None:
    """Neither from the engine's default network nor from one of their own, which is gone afterwards."""
    assert {"loopback"} == _guest(redis_host, network, _services(redis_host))
    assert redis_host.out("docker network ls --quiet --filter name=redkeep-verify") == ""


def test_no_port_is_open_on_the_hosts_own_addresses(redis_host: Machine) -> None:
    """Root, who may do most, connects at none of them to the ports of Redis, the API and the dashboard."""
    ports = [redis_host.wanted.port, *(port for _, port in _published(redis_host).values())]
    tries = [f"timeout 3 bash -c '</dev/tcp/{address}/{port}' && echo {address} {port} &" for address in _own(redis_host) for port in ports]
    assert [] == redis_host.lines("\n".join(["{", *tries, "wait; } 2>/dev/null"]))


@HAS_API
@pytest.mark.only(ssh=True)
def test_published_ports_do_not_answer_the_outside(redis_host: Machine) -> None:
    """From this machine neither the API nor the dashboard can be connected to, unless it is the host itself."""
    for address, port in _published(redis_host).values():
        try:
            socket.create_connection((redis_host.wanted.member.address, port), timeout=2).close()
            reached = True
        except OSError:
            reached = False
        assert reached == (redis_host.peer == address)


def test_containers_do_not_route_and_have_no_ipv6(redis_host: Machine) -> None:
    """In each container the kernel forwards nothing, and has no IPv6 address by which neighbours on a bridge could pass by the rules."""
    for service, container in _stack(redis_host).items():
        enter = f"nsenter --net=/proc/{container['State']['Pid']}/ns/net"
        forwards = redis_host.out(f"{enter} cat /proc/sys/net/ipv4/ip_forward").strip()
        addresses = [line for line in redis_host.lines(f"{enter} ip -6 -o addr show") if line.split()[1] != "lo"]
        assert ("0", []) == (forwards, addresses), service
