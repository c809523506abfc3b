"""Which hosts reach the port."""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import Any

import pytest

from .machine import Machine

# A container's server has its own module, test_container.
pytestmark = pytest.mark.only(runtime="native")


def _rules(machine: Machine) -> list[dict[str, Any]]:
    return list(json.loads(machine.out("nft -j list table inet redkeep"))["nftables"])


def _expressions(machine: Machine) -> list[list[dict[str, Any]]]:
    return [entry["rule"]["expr"] for entry in _rules(machine) if "rule" in entry]


def _addresses(right: Any) -> set[str]:
    """A match's right side: one address, a network, or a set of them."""
    if isinstance(right, str):
        return {right}
    if "prefix" in right:
        return {f"{right['prefix']['addr']}/{right['prefix']['len']}"}
    return {address for item in right["set"] for address in _addresses(item)}


@pytest.mark.only(firewall=True)
def test_firewall_accepts_exactly_the_allow_list(redis_host: Machine) -> None:
    """In the kernel's table the sources accepted are the app hosts and allowed_clients, no more and no fewer."""
    found: set[str] = set()
    for expression in _expressions(redis_host):
        for part in expression:
            if part.get("match", {}).get("left", {}).get("payload", {}).get("field") == "saddr":
                assert expression[-1] == {"accept": None}
                found |= _addresses(part["match"]["right"])
    wanted = {str(ipaddress.ip_network(client)) for client in redis_host.wanted.clients}
    assert {str(ipaddress.ip_network(address)) for address in found} == wanted


@pytest.mark.only(firewall=True)
def test_firewall_drops_everyone_else(redis_host: Machine) -> None:
    """The table looks at our port only, lets the host itself in, and ends with a drop."""
    expressions = _expressions(redis_host)
    first, last = expressions[0], expressions[-1]
    port = {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": redis_host.wanted.port}
    assert first[0] == {"match": port}
    assert first[-1] == {"return": None}
    assert last[-1] == {"drop": None}
    assert all(next(iter(part)) == "counter" for part in last[:-1]), "the drop has no condition"
    accepts = [expression for expression in expressions if expression[-1] == {"accept": None}]
    assert all(len(expression) == 2 for expression in accepts), "an accept has exactly one condition"
    assert len(expressions) == 2 + len(accepts)


@pytest.mark.only(firewall=True)
def test_firewall_is_asked_before_others(redis_host: Machine) -> None:
    """Its one chain hooks input, before the usual filter priority, and leaves all other traffic to the host's own rules."""
    (chain,) = [entry["chain"] for entry in _rules(redis_host) if "chain" in entry]
    assert (chain["type"], chain["hook"], chain["policy"]) == ("filter", "input", "accept")
    assert chain["prio"] < 0


@pytest.mark.only(firewall=True, systemd=True)
def test_firewall_survives_a_boot(redis_host: Machine) -> None:
    """Its unit is enabled and active, and comes before the server, which is not started without it."""
    shown = redis_host.out("systemctl show -p UnitFileState,ActiveState,Before redkeep-firewall.service")
    assert redis_host.unit in redis_host.out("systemctl show -p RequiredBy --value redkeep-firewall.service").split()
    assert "UnitFileState=enabled" in shown
    assert "ActiveState=active" in shown
    assert redis_host.unit in shown


@pytest.mark.only(firewall=True)
def test_file_of_the_firewall_is_what_the_kernel_has(redis_host: Machine) -> None:
    """nft accepts the file (a check that loads nothing), and every address of the kernel's allow-list stands in it."""
    assert redis_host.run("nft --check -f /etc/redkeep/firewall.nft").rc == 0
    text = redis_host.read("/etc/redkeep/firewall.nft")
    assert [client for client in redis_host.wanted.clients if client not in text] == []


@pytest.mark.only(firewall=True, ssh=True)
def test_this_machine_reaches_the_port_only_when_allowed(redis_host: Machine) -> None:
    """A connection from here is let in when the allow-list has our address, and otherwise gets no answer."""
    source = ipaddress.ip_address(redis_host.peer)
    allowed = any(source in ipaddress.ip_network(client) for client in redis_host.wanted.clients)
    try:
        socket.create_connection((redis_host.wanted.service, redis_host.wanted.port), timeout=2).close()
        reached = True
    except OSError:
        reached = False
    assert reached == allowed


@pytest.mark.only(firewall=False)
def test_there_is_no_firewall_of_ours(redis_host: Machine) -> None:
    """Where none is wanted there is no table, no file and no unit left of ours."""
    assert redis_host.run("command -v nft >/dev/null && nft list table inet redkeep").stdout == ""
    units = "/etc/systemd/system/redkeep-firewall.service", "/etc/systemd/system/nftables.service.d/redkeep.conf"
    paths = ("/etc/redkeep/firewall.nft", "/usr/local/sbin/redkeep-firewall", *units)
    assert redis_host.stat(*paths) == dict.fromkeys(paths)


@pytest.mark.only(systemd=True)
def test_unit_itself_talks_to_clients_only(redis_host: Machine) -> None:
    """systemd denies the unit every address but the host's own and the clients': Redis cannot call elsewhere either."""
    shown = dict(
        line.split("=", 1) for line in redis_host.lines(f"systemctl show -p IPAddressAllow,IPAddressDeny {redis_host.unit}")
    )
    assert set(shown["IPAddressDeny"].split()) == {"0.0.0.0/0", "::/0"}
    clients = {str(ipaddress.ip_network(client)) for client in redis_host.wanted.clients}
    own = {str(ipaddress.ip_network(address)) for address in redis_host.addresses}
    found = set(shown["IPAddressAllow"].split()) - {"127.0.0.0/8", "::1/128"}
    assert clients <= found <= clients | own


@pytest.mark.only(beyond_loopback=False)
def test_local_redis_is_on_loopback(redis_host: Machine) -> None:
    """A Redis that serves its own host alone is bound to loopback addresses, as CONFIG shows them too."""
    bound = redis_host.config("bind")["bind"].split()
    assert all(ipaddress.ip_address(address).is_loopback for address in bound)
    assert set(bound) == redis_host.bind
