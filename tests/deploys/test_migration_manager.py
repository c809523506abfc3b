"""DetailedMigrationManager on real hosts: what the deploys do, say and refuse, from Python."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from redkeep.errors import ConfigurationError
from redkeep.migration.manager import DetailedMigrationManager
from tests.deploys.runner import ROOT, Deployment
from tests.deploys.stock import contents, fill, install
from tests.lab.lab import Lab


def manager_of(site: Deployment) -> DetailedMigrationManager:
    return DetailedMigrationManager(ROOT, site.inventory, data={"secrets_folder": str(site.secrets)})


def test_a_host_of_ours_is_refused(deployed: Callable[[str], Deployment]) -> None:
    """The deploy's own sentence arrives as the error, and the status says that nothing differs."""
    manager = manager_of(deployed("redis80"))

    async def work() -> None:
        with pytest.raises(ConfigurationError, match=r"^migrate preparation: .*set up by Redkeep, there is nothing to migrate"):
            await manager.execute_migration_step("preparation")
        assert "redis80: as wanted" in await manager.migration_status()

    asyncio.run(work())
    assert [result.succeeded for result in manager.results] == [False, True]


@pytest.mark.soak
def test_stages_there_and_back(single: Callable[..., Deployment], lab: Lab) -> None:
    """A plan changes nothing; stages are done and validated; one out of order is refused; the way back leaves nothing begun."""
    site = single("managed")
    host = lab["managed"]
    install(host)
    keys = fill(host)
    before = host.check("redis-cli CONFIG GET '*'")
    manager = manager_of(site)

    async def work() -> None:
        assert any("would repair" in line for line in await manager.plan_migration_step("preparation"))
        assert host.check("redis-cli CONFIG GET '*'") == before
        for stage in ("preparation", "authentication"):
            assert await manager.execute_migration_step(stage)
            assert any(f"{stage} validated" in line for line in manager.results[-1].lines)
        with pytest.raises(ConfigurationError, match="access_control is out of order; tls comes first"):
            await manager.execute_migration_step("access_control")
        assert any("2 of 6 stages done" in line for line in await manager.migration_status())
        assert await manager.rollback_migration_step("preparation")
        assert manager.results[-1].lines[-1] == "managed: migration: not begun"

    asyncio.run(work())
    assert contents(host) == keys
