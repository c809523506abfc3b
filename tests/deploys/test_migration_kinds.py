"""The same migration on the other servers and hosts it is for, and what a caller may choose."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from redkeep.migration.stages import NAMES
from tests.deploys.hoststate import differences, leftovers
from tests.deploys.runner import Deployment
from tests.deploys.stock import Size, forward, found, install, load, run_id
from tests.lab.lab import Lab

pytestmark = pytest.mark.soak

SIZE = Size(20, 200, 5_000, again=False)


@pytest.mark.parametrize(
    ("suite", "engine", "user", "init"),
    [
        ("trixie", "redis", "operator", True),
        ("trixie", "valkey", "root", True),
        ("bookworm", "redis", "root", False),
    ],
    ids=["redis8", "valkey", "no-systemd"],
)
def test_there_and_back(
    suite: str,
    engine: str,
    user: str,
    init: bool,
    single: Callable[..., Deployment],
    lab: Lab,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On Redis 8 as a user with sudo, on Valkey, and without systemd: no operation fails, one restart, and everything is
    as it was at the end of the way back."""
    name = f"kind-{engine}-{suite}"
    site = single(name, suite, user=user, init=init, redis_engine=engine)
    host = lab[name]
    install(host, engine)
    before, first = found(host), run_id(host)
    with load(host, SIZE) as met:
        forward(site, *NAMES[:-1])
        assert run_id(host) == first
        forward(site, NAMES[-1])
        after = run_id(host)
        assert after != first
        assert site.run().ok().changed_operations == 0
        assert site.run("status").ok().drift == {}
        back = site.run("rollback", "--data", "stage=preparation").ok()
        assert re.findall(r"(\w+) rolled back", back.output) == list(reversed(NAMES))
        assert differences(before, found(host)) == []
        assert run_id(host) == after
    with capsys.disabled():
        print(f"\n{name}: {met.seen}")
    assert met.seen["failed"] == []
    assert met.seen["lost"] == 0
    assert met.seen["ttl_off"] < 2
    assert leftovers(host) == []
