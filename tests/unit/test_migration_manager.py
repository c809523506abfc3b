"""DetailedMigrationManager without hosts: what it is asked with, and what it reads in the words of pyinfra."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from redkeep.errors import ConfigurationError
from redkeep.migration.manager import DetailedMigrationManager, reason, said
from redkeep.migration.stages import NAMES

# As pyinfra printed them.
OUT_OF_ORDER = """--> Preparing operation files...
    Loading: deploys/migrate.py

--> Disconnecting from hosts...
--> pyinfra error in /somewhere/deploys/migration/course.py line 157: old: stage: tls is out of order; preparation comes first
"""
NOT_READY = """--> Connecting to hosts...
    [old] Connected
    [old] Ready: deploys/migrate.py
    [old] \x1b[1mmigrate application_encryption: Encrypt what is written from now on\x1b[0m
    [old] old: 1 client still uses plaintext: 127.0.0.1:55056 (user default, port 6379, connected for 53 s). Move them.
    [old] Error: executed 0 commands
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder like the bundle, whose pyinfra says no to everything."""
    (tmp_path / "deploys").mkdir()
    (tmp_path / "deploys" / "migrate.py").touch()
    (tmp_path / "inventory").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    pyinfra = tmp_path / ".venv" / "bin" / "pyinfra"
    pyinfra.write_text('#!/bin/sh\nprintf "    [h] %s\\n" "$*"\nexit ${CODE:-0}\n')
    pyinfra.chmod(0o755)
    return tmp_path


def test_what_a_run_says() -> None:
    """Lines of hosts without colours and without what says only how far it is; the reason is what stopped it, or each host's last."""
    assert said(NOT_READY)[0] == "old: migrate application_encryption: Encrypt what is written from now on"
    assert len(said(NOT_READY)) == 2
    assert reason(NOT_READY).startswith("old: 1 client still uses plaintext")
    assert reason(OUT_OF_ORDER) == "old: stage: tls is out of order; preparation comes first"
    assert reason("") == ""


def test_the_steps_are_the_stages(bundle: Path) -> None:
    """As the PRD has them: names in order, actions, hours, validation and rollback."""
    steps = DetailedMigrationManager(bundle).migration_steps
    assert [step["name"] for step in steps] == list(NAMES)
    assert all(step["actions"] and step["validation"] and step["rollback"] and 0 < step["duration_hours"] <= 2 for step in steps)


def test_what_it_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deploys of the bundle, with the stage and the data; a failure raises with what was said, and is recorded like a success."""
    manager = DetailedMigrationManager(bundle, data={"stragglers": "end"})

    async def work() -> None:
        assert await manager.execute_migration_step("tls_optional")
        assert await manager.rollback_migration_step("tls")
        await manager.plan_migration_step("close")
        monkeypatch.setenv("CODE", "1")
        status = await manager.migration_status()
        assert status == manager.results[-1].lines
        with pytest.raises(ConfigurationError, match=r"^migrate tls: h: -y .*deploys/migrate.py"):
            await manager.execute_migration_step("tls", rollback_on_failure=True)
        with pytest.raises(ConfigurationError, match="no such stage"):
            await manager.execute_migration_step("do magic")

    asyncio.run(work())
    data = "--data stragglers=end --data stage"
    inventory = bundle / "inventory"
    assert [result.lines for result in manager.results] == [
        (f"h: -y {inventory} deploys/migrate.py {data}=tls",),
        (f"h: -y {inventory} deploys/rollback.py {data}=tls",),
        (f"h: --dry {inventory} deploys/migrate.py {data}=close",),
        (f"h: -y {inventory} deploys/status.py --data stragglers=end",),
        (f"h: -y {inventory} deploys/migrate.py {data}=tls",),
        (f"h: -y {inventory} deploys/rollback.py {data}=tls",),
    ]
    assert [result.succeeded for result in manager.results] == [True] * 3 + [False] * 3


def test_what_is_missing_is_named(bundle: Path) -> None:
    """A folder that is no bundle, an inventory that is not there, an environment not made, data that is none."""
    for missing, says in (
        (".venv/bin/pyinfra", "run `make environment`"),
        ("inventory", "inventory: there is no "),
        ("deploys/migrate.py", "has no deploys/migrate.py"),
    ):
        (bundle / missing).unlink()
        with pytest.raises(ConfigurationError, match=says):
            DetailedMigrationManager(bundle)


@pytest.mark.parametrize("name", ["stage", "--debug", "a b"])
def test_data_that_is_none(bundle: Path, name: str) -> None:
    """What could be an option, or is the manager's own, is refused."""
    with pytest.raises(ConfigurationError, match="is not the name of a deploy option"):
        DetailedMigrationManager(bundle, data={name: "x"})
