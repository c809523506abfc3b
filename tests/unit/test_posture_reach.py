"""From where Redis can be reached, told from sockets that really listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from redkeep.environment import collect
from redkeep.monitoring.network_space import listening, owns
from redkeep.monitoring.reach import probe_reach
from redkeep.target import Target, build_target


def target(host: str, port: int) -> Target:
    return build_target(redis_url=f"rediss://{host}:{port}/0", **collect({}))  # type: ignore[arg-type]  # no other setting


@pytest.mark.parametrize(("bound", "state", "words"), [("127.0.0.1", "ok", "loopback only"), ("0.0.0.0", "weak", "every address")])
def test_what_listens_here_is_read_from_the_kernel(bound: str, state: str, words: str) -> None:
    """The name says 127.0.0.1; what counts is the address that the kernel says something listens on."""
    with socket.create_server((bound, 0)) as server:
        port = server.getsockname()[1]
        assert [bound] == [str(address) for address in listening(Path("/proc/self"), port)]
        (control,) = probe_reach(target("127.0.0.1", port))
    assert (state, True) == (control.state, words in control.evidence)


def test_nothing_listens_here() -> None:
    """Where a Redis that is down would listen, nobody can tell."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (control,) = probe_reach(target("127.0.0.1", port))
    assert ("unknown", f"no listener on port {port} of this machine is visible") == (control.state, control.evidence)


@pytest.mark.parametrize(("host", "state"), [("10.9.8.7", "ok"), ("8.8.8.8", "unknown"), ("redis.invalid", "unknown")])
def test_another_machine_is_judged_by_its_address(host: str, state: str) -> None:
    """Private is ok; what keeps others from a public one cannot be told from here, nor where a name is that does not resolve: the
    remedy says what to do."""
    (control,) = probe_reach(target(host, 6380))
    assert (state, state == "ok") == (control.state, not control.remedy)


def test_whose_an_address_is() -> None:
    """Our own network has the loopback addresses, and neither a neighbour's, nor a whole network, nor a broadcast address."""
    own = Path("/proc/self")
    assert [True, False, False, False] == [owns(own, each) for each in ("127.0.0.1", "192.0.2.7", "127.0.0.0", "127.255.255.255")]
    assert socket.has_ipv6 is False or not owns(own, "2001:db8::1")
    assert not owns(Path("/proc/0"), "127.0.0.1")
