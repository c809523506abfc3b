"""The rules around the containers, in a network of their own: who opens a connection to whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploys import stack
from deploys.facts.docker import DockerState
from deploys.rendering import render
from tests.unit.needs import needs
from tests.unit.wanted import bundle

# Both bridges, and on them the server, the API with its two interfaces, a guest and a stranger of the edge. Each of the last two
# takes the API for a router, and the server knows a way back, as one with rights could arrange.
NETWORK = """set -eu; mount -t tmpfs none /run
ip link add redkeep-in type bridge; ip addr add 10.213.0.1/28 dev redkeep-in; ip link set redkeep-in up
ip link add redkeep-edge type bridge; ip addr add 10.213.0.17/28 dev redkeep-edge; ip link set redkeep-edge up
at() { ip link add v$1$3 type veth peer name $3 netns $1; ip link set v$1$3 master $2 up
    ip netns exec $1 ip addr add $4 dev $3; ip netns exec $1 ip link set $3 up; }
for n in server api guest stranger; do ip netns add $n; done
at server redkeep-in e0 10.213.0.2/28; at api redkeep-in e0 10.213.0.14/28; at api redkeep-edge e1 10.213.0.18/28
ip link set lo up; at guest redkeep-in e0 10.213.0.5/28; at stranger redkeep-edge e0 10.213.0.20/28
ip netns exec api sysctl -qw net.ipv4.ip_forward=1
ip netns exec server ip route add 10.213.0.16/28 via 10.213.0.14
ip netns exec stranger ip route add 10.213.0.0/28 via 10.213.0.18
ip netns exec guest ip route add 10.213.0.16/28 via 10.213.0.14
for f in /proc/sys/net/bridge/bridge-nf-call-iptables; do [ ! -e $f ] || echo $1 > $f; done
nft -f "$2"
exec "$3" "$4"
"""

# Probes by name: from where, to which address and port. Listeners are up before the first of them.
PROBES = """
import json, socket, subprocess, sys, time
def inside(name, code, *words):
    return ["ip", "netns", "exec", name, sys.executable, "-I", "-S", "-c", f"import socket, sys; {code}", *words]
def listen(name, *ports):
    code = "all = [socket.create_server((str(), int(port))) for port in sys.argv[1:]]; print(flush=True); sys.stdin.read()"
    one = subprocess.Popen(inside(name, code, *map(str, ports)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    one.stdout.readline()
    return one
def opens(name, address, port):
    code = "socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
    return subprocess.run(inside(name, code, address, str(port)), stderr=subprocess.DEVNULL).returncode == 0
def host(*account):
    words = [*account, "timeout", "1", "bash", "-c", "</dev/tcp/127.0.0.1/8501"]
    return subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0
proxy = socket.create_server(("127.0.0.1", 8501))
listeners = [listen("server", 6380, 22), listen("api", 8765, 22), listen("guest", 22)]
end = time.monotonic() + 15  # the kernel takes a second or two to see the cables
while not (opens("guest", "10.213.0.2", 6380) and opens("stranger", "10.213.0.18", 8765)) and time.monotonic() < end: time.sleep(0.2)
print(json.dumps({
    "guest, server": opens("guest", "10.213.0.2", 6380), "guest, another port": opens("guest", "10.213.0.2", 22),
    "server, guest": opens("server", "10.213.0.5", 22), "stranger, API": opens("stranger", "10.213.0.18", 8765),
    "stranger, another port": opens("stranger", "10.213.0.18", 22), "stranger, server by the API": opens("stranger", "10.213.0.2", 6380),
    "API, server": opens("api", "10.213.0.2", 6380), "guest, API": opens("guest", "10.213.0.14", 8765),
    "root, dashboard's proxy": host(), "another account, dashboard's proxy": host("setpriv", "--reuid=65534", "--clear-groups"),
}))
for one in listeners: one.communicate()
"""


@needs("nft", "ip", root=True)
@pytest.mark.parametrize("bridged", [1, 0], ids=["the kernel shows bridged packets", "it does not"])
def test_only_the_wanted_connections_open(bridged: int, tmp_path: Path) -> None:
    """The server's port from its own network, the API's from the edge; and the API, which is on both, is no way from one to the other.
    The dashboard's port on the loopback address is for root, also where a proxy of the engine serves it, which is root itself."""
    rules, probes = tmp_path / "rules.nft", tmp_path / "probes.py"
    networks = stack.plan(bundle(redis_runtime="docker"), DockerState())
    rules.write_bytes(
        render(
            "etc/redkeep/firewall-container.nft",
            address=networks.redis,
            subnet=str(networks.internal),
            bridge=stack.BRIDGE,
            port=6380,
            uids=[0],
            edge=networks,
            edge_bridge=stack.EDGE_BRIDGE,
            api_port=stack.API_PORT,
            dashboard_port=stack.DASHBOARD_PORT,
            dashboard_published=8501,
            reachable=[],
        )
    )
    probes.write_text(PROBES)
    arguments = [str(bridged), str(rules), sys.executable, str(probes)]
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(
        ["unshare", "-nm", "sh", "-c", NETWORK, "sh", *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert ["guest, server", "stranger, API", "API, server", "root, dashboard's proxy"] == [name for name, there in found.items() if there]
