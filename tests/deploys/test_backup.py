"""Backups of running servers: sealed at the operator's, tried on the host, brought back, and never half done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploys.conftest import KINDS
from tests.deploys.contents import CLI, KEYS, ask, files, fill, run, seen, temporary
from tests.deploys.runner import Deployment
from tests.lab.lab import Lab


@pytest.fixture(params=["redis70", pytest.param("redis80", marks=pytest.mark.soak), pytest.param("valkey81", marks=pytest.mark.soak)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def deployment(kind: str, deployed: Callable[[str], Deployment], lab: Lab) -> Iterator[Deployment]:
    found = deployed(kind)
    yield found
    ask(lab[server_of(kind)], "FLUSHALL")


def server_of(kind: str) -> str:
    return str(KINDS[kind]["groups"]["redis"][0])  # type: ignore[index]


def test_a_backup_is_tried_and_brought_back(kind: str, deployment: Deployment, lab: Lab, tmp_path: Path) -> None:
    """With persistence off: taken while the server runs, sealed, tried against it; after every key was changed, deleted or
    added, a restore brings each value and each end back, keeps what was there as a backup of its own, and leaves nothing."""
    host = lab[server_of(kind)]
    folder = tmp_path / "backups"
    fill(host)
    before = seen(host)
    made = run(deployment, "backup", folder, drill="yes", keep=2).ok()
    assert f"the drill loaded {KEYS} of {KEYS} keys; of 200 sampled keys 200 are the same on the server now" in made.output
    (backup,) = files(folder)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert b"ai_cache" not in backup.read_bytes()
    assert temporary(host) == ""

    host.check(f"{CLI} SET ai_cache:1 other >/dev/null; {CLI} DEL hash set >/dev/null; {CLI} SET new 1 >/dev/null")
    restored = run(deployment, "restore", folder, file=backup).ok()
    assert f"{KEYS} keys are loaded; the {KEYS - 1} current keys are backed up in" in restored.output
    assert seen(host) == before
    assert len(files(folder)) == 2
    assert temporary(host) == ""
    assert deployment.run("status").ok().drift == {}

    run(deployment, "backup", folder, keep=1).ok()
    (last,) = files(folder)
    assert last != backup


def test_what_cannot_be_restored_is_refused_and_nothing_changes(
    kind: str, deployment: Deployment, deployed: Callable[[str], Deployment], lab: Lab, tmp_path: Path
) -> None:
    """A damaged file, a file sealed to others, and one of a newer Redis: a sentence each, the same process, the same keys."""
    host = lab[server_of(kind)]
    newer = {"redis70": "redis80", "valkey81": "redis80"}.get(kind)
    fill(host)
    folder = tmp_path / "backups"
    run(deployment, "backup", folder).ok()
    (backup,) = files(folder)
    before, process = seen(host), ask(host, "INFO server").partition("run_id:")[2][:40]

    damaged = tmp_path / "damaged.redkeep"
    content = bytearray(backup.read_bytes())
    content[-40] ^= 1
    damaged.write_bytes(content)
    refused = run(deployment, "restore", folder, file=damaged)
    assert refused.code != 0
    assert "damaged or truncated" in refused.output

    if newer is not None:
        other = deployed(newer)
        fill(lab[server_of(newer)])
        run(other, "backup", tmp_path / "newer").ok()
        ask(lab[server_of(newer)], "FLUSHALL")
        (theirs,) = files(tmp_path / "newer")
        refused = run(deployment, "restore", folder, file=theirs)
        assert refused.code != 0
        assert "encrypted for another key" in refused.output
        # As when both are of one environment.
        ours = Deployment(deployment.inventory, tmp_path / "secrets")
        shutil.copytree(other.secrets, ours.secrets)
        refused = run(ours, "restore", folder, file=theirs)
        assert refused.code != 0
        assert re.search(r"the backup is from redis 8\.\S+, whose format is too new for \w+ \S+:", refused.output)

    refused = run(deployment, "restore", folder)
    assert refused.code != 0
    assert "Say which backup" in refused.output
    assert "Traceback" not in refused.output
    assert seen(host) == before
    assert ask(host, "INFO server").partition("run_id:")[2][:40] == process
    assert temporary(host) == ""
