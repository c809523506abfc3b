"""The deploy itself: from a bare host to every control holding, and nothing to do the second time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.deploys.conftest import KINDS, Rehearsal
from tests.deploys.runner import ROOT, Deployment
from tests.lab.lab import Lab

kinds = pytest.mark.parametrize("kind", sorted(KINDS))


@kinds
def test_a_dry_run_says_what_it_would_mend_and_changes_nothing(
    kind: str, deployed: Callable[[str], Deployment], rehearsals: dict[str, Rehearsal]
) -> None:
    """--dry on a bare host lists the steps with their reasons; the host and the operator's secrets stay as they were."""
    deployed(kind)
    rehearsal = rehearsals[kind]
    planned = rehearsal.run.ok().planned[KINDS[kind]["groups"]["redis"][0]]  # type: ignore[index]
    assert any("packages are missing" in line for line in planned)
    assert any("users.acl is missing" in line for line in planned)
    assert rehearsal.before == rehearsal.after
    assert not rehearsal.secrets


@kinds
def test_a_bare_host_becomes_a_hardened_one(kind: str, deployed: Callable[[str], Deployment], lab: Lab) -> None:
    """After one run every host of the app proves an encrypted write and read, and every control."""
    deployed(kind)
    for name in KINDS[kind]["groups"]["app"]:  # type: ignore[index]
        status = lab[name].run("redkeep status --json")
        assert status.code == 0, status.out


@kinds
def test_a_second_run_changes_nothing(kind: str, deployed: Callable[[str], Deployment]) -> None:
    """The second run has no changed operation and says that nothing had to change."""
    run = deployed(kind).run().ok()
    assert run.changed_operations == 0
    assert run.mended == {}
    assert "nothing had to change" in run.output


@kinds
def test_a_status_finds_nothing_after_a_deploy(kind: str, deployed: Callable[[str], Deployment]) -> None:
    """status succeeds and names no difference."""
    run = deployed(kind).run("status").ok()
    assert run.drift == {}


@kinds
def test_the_stock_configuration_never_ran(kind: str, deployed: Callable[[str], Deployment], lab: Lab) -> None:
    """The server's log knows our port from its first start on, and never the stock port."""
    deployed(kind)
    host = lab[KINDS[kind]["groups"]["redis"][0]]  # type: ignore[index]
    log = host.check("cat /var/log/redis/*.log /var/log/valkey/*.log 2>/dev/null; journalctl --no-pager -o cat 2>/dev/null || true")
    assert "port=6380" in log
    assert "port=6379" not in log


@kinds
def test_a_scanner_finds_modern_tls(kind: str, deployed: Callable[[str], Deployment]) -> None:
    """sslyze finds the endpoint compliant with Mozilla's modern profile."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/scanners", "--inventory", str(deployed(kind).inventory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


@kinds
def test_independent_eyes_agree(kind: str, deployed: Callable[[str], Deployment]) -> None:
    """tests/hosts, which knows nothing of redkeep's code, passes on every host."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/hosts", "--inventory", str(deployed(kind).inventory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


TRACKED = """
import asyncio
from pathlib import Path
from redkeep import SecureAIResponseCache, Settings

async def main():
    async with SecureAIResponseCache.from_settings(Settings.load(Path("/etc/redkeep/cache.env"))) as cache:
        await cache.set("seen", 1)
        for _ in range(2):
            await cache.get("seen")
            print(cache.performance_monitor.cache_operation_times[-1].additional_data["cache_tier"])

asyncio.run(main())
"""


def test_an_app_keeps_what_the_server_watches(deployed: Callable[[str], Deployment], lab: Lab) -> None:
    """With cache_tracking the app's second read is answered from memory: the deploy granted the right and told the app."""
    deployed("valkey81")
    lab["valkey81"].put("/run/tracked.py", TRACKED)
    assert lab["valkey81"].check("/opt/redkeep/current/bin/python /run/tracked.py").split() == ["redis", "memory"]
