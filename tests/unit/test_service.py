"""A running server that cannot be asked: what is mended by a restart, and what is left alone."""

from __future__ import annotations

import subprocess

import pytest

from deploys.facts.server import server_of
from deploys.facts.survey import UnitState
from deploys.stages import service
from deploys.stages.machine import MANAGED
from deploys.stages.wanted import CLI
from tests.unit.wanted import FakeSite, bundle, survey, there

ENGINE = bundle().engine
UNITS = {ENGINE.unit: UnitState(load="loaded", enabled="enabled", active="active")}
FILES = {MANAGED: there(), CLI: there()}


def wrong(*said: str) -> list[tuple[str, str]]:
    """What differs and how it is repaired, when redis-cli said that to the survey."""
    found = survey(units=UNITS, files=FILES, server=server_of({"server": list(said)}))
    return [(each.what, each.script) for each in service.service(FakeSite(bundle()), found)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said",
    [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "(error) LOADING Redis is loading the dataset in memory",
        "Could not connect to Redis at 127.0.0.1:6380: SSL_connect failed: unexpected eof while reading",
        "",
    ],
    ids=["a script runs", "it loads", "every place is taken", "it hangs"],
)
def test_a_busy_server_is_never_restarted(said: str) -> None:
    """A restart would empty a cache: the run fails with what to do, in one sentence."""
    ((what, script),) = wrong(said)
    assert what.startswith("the running server has no answer for the operator now")
    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("redis-server: it was not restarted, which could empty it: see what keeps it busy")


@pytest.mark.parametrize(
    "said",
    [
        "AUTH failed: WRONGPASS invalid username-password pair or user is disabled.",
        "Could not connect to Redis at 127.0.0.1:6380: Connection refused",
        "Could not connect to Redis at 127.0.0.1:6380: SSL_connect failed: certificate verify failed",
    ],
)
def test_a_server_with_another_login_or_certificate_is_restarted(said: str) -> None:
    """Its files are what is wanted by then."""
    ((what, script),) = wrong(said)
    assert what.startswith("the operator cannot use the running server")
    assert f"systemctl restart {ENGINE.unit}" in script
