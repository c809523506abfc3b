"""Redis in a container: what the engine and the kernel say about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .machine import Machine, Stat

pytestmark = pytest.mark.only(runtime="docker")
NETWORK = "redkeep_internal"


def _inspect(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.out("docker inspect $(docker ps -q --filter label=com.docker.compose.service=redis)"))[0])


def test_container_is_confined(redis_host: Machine) -> None:
    """No root, no capability, no way to gain one, a read-only root, limits on memory, processors and processes."""
    found = _inspect(redis_host)
    host = found["HostConfig"]
    assert found["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert host["ReadonlyRootfs"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0


def test_kernel_confines_the_process(redis_host: Machine) -> None:
    """The process itself has no capability and may gain none, whatever the engine says about its container."""
    pid = _inspect(redis_host)["State"]["Pid"]
    status = dict(line.split(":", 1) for line in redis_host.lines(f"cat /proc/{pid}/status") if ":" in line)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Uid"].split()[0] != "0"


def test_container_is_on_its_internal_network_alone(redis_host: Machine) -> None:
    """The network is internal, the container is on no other, and no port of it is published."""
    found = _inspect(redis_host)
    assert set(found["NetworkSettings"]["Networks"]) == {NETWORK}
    assert not any(found["NetworkSettings"]["Ports"].values())
    assert json.loads(redis_host.out(f"docker network inspect {NETWORK}"))[0]["Internal"] is True
    assert redis_host.run(f"ss -Hltn 'sport = :{redis_host.wanted.port}'").stdout == ""


@pytest.mark.only(firewall=True)
def test_kernel_drops_what_is_not_allowed(redis_host: Machine) -> None:
    """Our tables hook input, output, forwarding and the bridge before others do, and each chain ends with a drop."""
    text = redis_host.out("nft -j list table inet redkeep; nft -j list table bridge redkeep")
    entries = [entry for line in text.splitlines() for entry in json.loads(line)["nftables"]]
    chains = [e["chain"] for e in entries if "chain" in e and e["chain"]["family"] == "inet"]
    parts = 2 if redis_host.api == "container" else 1
    assert sorted(chain["hook"] for chain in chains) == sorted(["input", "output", "forward"] * parts)
    assert all(chain["prio"] < 0 for chain in chains)
    last = {(e["rule"]["family"], e["rule"]["chain"]): e["rule"]["expr"][-1] for e in entries if "rule" in e}
    assert len(last) == 3 * parts + 1
    assert set(map(str, last.values())) == {"{'drop': None}"}


def test_files_are_roots(redis_host: Machine) -> None:
    """The stack can be changed and its variables read by root alone; the health check is read by the server's group."""
    folder, health = "/etc/redkeep/stack", f"{redis_host.folder}/health"
    wanted = {folder: Stat("0750", "root", "root"), f"{folder}/compose.yaml": Stat("0640", "root", "root")}
    wanted |= {f"{folder}/.env": Stat("0640", "root", "root"), health: Stat("0750", "root", redis_host.engine)}
    wanted |= {f"{health}/password": Stat("0640", "root", redis_host.engine)}
    assert redis_host.stat(*wanted) == wanted
