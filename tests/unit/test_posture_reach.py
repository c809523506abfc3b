"""From where Redis can be reached, told from sockets that really listen."""

from __future__ import annotations

import socket

import pytest

from redkeep.environment import collect
from redkeep.monitoring.reach import listening, probe_reach
from redkeep.target import Target, build_target


def target(host: str, port: int) -> Target:
    return build_target(redis_url=f"rediss://{host}:{port}/0", **collect({}))  # type: ignore[arg-type]  # no other setting


@pytest.mark.parametrize(("bound", "state", "words"), [("127.0.0.1", "ok", "loopback only"), ("0.0.0.0", "not applicable", "every address")])
def test_what_listens_here_is_read_from_the_kernel(bound: str, state: str, words: str) -> None:
    """The name says 127.0.0.1; what counts is the address that the kernel says something listens on."""
    with socket.create_server((bound, 0)) as server:
        port = server.getsockname()[1]
        assert [bound] == [str(address) for address in listening(port)]
        (control,) = probe_reach(target("127.0.0.1", port))
    assert (state, True) == (control.state, words in control.evidence)


@pytest.mark.parametrize(("host", "state"), [("10.9.8.7", "ok"), ("8.8.8.8", "not applicable"), ("redis.invalid", "unknown")])
def test_another_machine_is_judged_by_its_address(host: str, state: str) -> None:
    """Private is ok, public cannot be told from here, a name that does not resolve is unknown."""
    (control,) = probe_reach(target(host, 6380))
    assert state == control.state
