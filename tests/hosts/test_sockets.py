"""Where the server listens."""

from __future__ import annotations

import socket

import pytest

from .machine import Machine, endpoint


def _listening(machine: Machine, options: str) -> list[list[str]]:
    """Of the server's network: the host's, or that of its container."""
    inside = f"nsenter --net=/proc/{machine.pid}/ns/net " if machine.wanted["redis_runtime"] == "docker" else ""
    return [line.split() for line in machine.lines(f"{inside}ss -H -l -n -p {options}")]


def _of_server(machine: Machine, rows: list[list[str]]) -> list[list[str]]:
    """The server's rows, and those at its port whose owner root may not see (a plain container)."""
    port = f":{machine.wanted.port}"
    return [r for r in rows if f'"{machine.engine}-server"' in r[-1] or ("users:" not in r[-1] and r[3].endswith(port))]


def test_server_listens_on_the_wanted_addresses_and_the_tls_port_only(redis_host: Machine) -> None:
    """The server's TCP sockets are exactly the wanted addresses at the TLS port."""
    found = {row[3].replace("*:", "[::]:") for row in _of_server(redis_host, _listening(redis_host, "-t"))}
    assert found == {endpoint(address, redis_host.wanted.port) for address in redis_host.bind}


def test_plaintext_port_is_closed(redis_host: Machine) -> None:
    """Nothing at all listens on Redis' plaintext port 6379."""
    assert _listening(redis_host, "-t 'sport = :6379'") == []


def test_there_is_no_unix_socket(redis_host: Machine) -> None:
    """The server has no Unix socket that listens: file modes are no second door."""
    assert _of_server(redis_host, _listening(redis_host, "-x")) == []


def test_there_is_no_udp_or_cluster_bus(redis_host: Machine) -> None:
    """The server has no UDP socket, and nothing listens on the cluster bus of a single server (port + 10000)."""
    bus = redis_host.wanted.port + 10000
    rows = _of_server(redis_host, _listening(redis_host, "-u")) + _listening(redis_host, f"-t 'sport = :{bus % 65536}'")
    assert rows == []


@pytest.mark.only(ssh=True, beyond_loopback=False)
def test_port_does_not_answer_the_outside(redis_host: Machine) -> None:
    """From this machine the TLS port of a Redis that serves its own host alone cannot be reached."""
    with pytest.raises(OSError):
        socket.create_connection((redis_host.wanted.member.address, redis_host.wanted.port), timeout=2).close()
