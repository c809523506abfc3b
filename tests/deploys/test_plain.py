"""A container without systemd and with its engine's own capabilities: root may not look at /proc/PID/exe there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.deploys.runner import ROOT, Deployment
from tests.lab.lab import Lab

NAME = "plain"
ALIVE = "pgrep -x -r D,R,S redis-server"


@pytest.fixture(scope="module")
def plain(single: Callable[..., Deployment]) -> Deployment:
    """The container, deployed to."""
    deployment = single(NAME, init=False)
    deployment.run().ok()
    return deployment


def test_a_second_run_changes_nothing(plain: Deployment) -> None:
    """As with systemd."""
    assert plain.run().ok().changed_operations == 0


def test_independent_eyes_agree(plain: Deployment) -> None:
    """tests/hosts passes, with what can be seen without the capability."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/hosts", "--inventory", str(plain.inventory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_setting_that_needs_a_restart_gets_one(plain: Deployment, lab: Lab) -> None:
    """The process is another one afterwards, and the setting holds; and back again."""
    before = lab[NAME].check(ALIVE)
    plain.run("secure_redis", "--data", "redis_databases=2").ok()
    assert before != lab[NAME].check(ALIVE)
    assert lab[NAME].check("redkeep-cli CONFIG GET databases").split()[-1] == "2"
    plain.run().ok()
    assert plain.run("status").ok().drift == {}


def test_other_secrets_are_refused(plain: Deployment, lab: Lab) -> None:
    """A colleague without the secrets folder is told so; nothing changes, and no secret is made on the way."""
    before = lab[NAME].check("sha256sum /etc/redkeep/cache.env")
    colleague = Deployment(plain.inventory, plain.secrets.parent / "colleague")
    run = colleague.run()
    assert run.code != 0
    assert "it was set up with other secrets" in run.output
    assert "Traceback" not in run.output
    assert before == lab[NAME].check("sha256sum /etc/redkeep/cache.env")
    assert not colleague.secrets.exists()


def test_a_destroy_leaves_no_server_running(plain: Deployment, lab: Lab) -> None:
    """The process is gone with its package."""
    plain.run("destroy", "--data", "confirm=plain").ok()
    assert lab[NAME].run(ALIVE).out == ""
