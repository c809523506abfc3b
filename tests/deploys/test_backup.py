"""Backups of running servers: sealed at the operator's, tried on the host, brought back, and never half done."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploys.facts.survey import LOCK
from deploys.stages.recovery import BEFORE
from deploys.stages.snapshot import STALE_MINUTES
from tests.deploys.conftest import KINDS
from tests.deploys.contents import CLI, KEYS, ask, files, fill, run, seen, temporary
from tests.deploys.crash import kill_after, kill_when
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
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

    change(host, 1)
    restored = run(deployment, "restore", folder, file=backup).ok()
    assert f"{KEYS} keys are loaded; the {KEYS - 1} current keys are backed up in" in restored.output
    assert seen(host) == before
    assert len(files(folder)) == 2
    assert temporary(host) == ""
    assert deployment.run("status").ok().drift == {}

    run(deployment, "backup", folder, keep=1).ok()
    (last,) = files(folder)
    assert last != backup


def change(host: Host, number: int) -> None:
    """A key changed, some deleted, one added since the backup."""
    host.check(f"{CLI} SET ai_cache:1 other >/dev/null; {CLI} DEL hash set >/dev/null; {CLI} SET new {number} >/dev/null")


@pytest.mark.parametrize(
    "reach",
    [
        pytest.param("true", id="as it begins"),
        pytest.param(f"until [ -s {BEFORE}/dump.rdb ]; do sleep 0.01; done", id="as the old data is set aside"),
    ],
)
def test_a_restore_killed_at_a_known_moment_leaves_the_old_data_or_the_new(
    reach: str, kind: str, deployment: Deployment, lab: Lab, tmp_path: Path
) -> None:
    """Once the script under way is over the server has all of the one or all of the other; the same command again brings the new, and
    what the killed run left on the host goes with the first backup ten minutes later."""
    host, folder = lab[server_of(kind)], tmp_path / "backups"
    fill(host)
    new = seen(host)
    run(deployment, "backup", folder).ok()
    (backup,) = files(folder)
    change(host, 1)
    old = seen(host)
    _, at_work = kill_when(deployment, "Restore", lambda: host.run(f"timeout 120 sh -c '{reach}'"), "restore", *words(folder, backup))
    assert at_work
    host.check(f"flock {LOCK} true")
    assert seen(host) in (old, new)
    run(deployment, "restore", folder, file=backup).ok()
    assert seen(host) == new
    assert_nothing_stays(deployment, host, folder)


@pytest.mark.soak
def test_a_restore_killed_at_any_moment_leaves_the_old_data_or_the_new(
    kind: str, deployment: Deployment, lab: Lab, tmp_path: Path
) -> None:
    """The same at thirty random moments."""
    host, folder = lab[server_of(kind)], tmp_path / "backups"
    chance = random.Random(30)  # noqa: S311 - moments, not secrets
    fill(host)
    new = seen(host)
    run(deployment, "backup", folder).ok()
    (backup,) = files(folder)
    spans: dict[str, float] = {}
    told = Counter[str]()
    for number in range(30):
        change(host, number)
        old = seen(host)
        killed = kill_after(deployment, 0.3 + 0.7 * chance.random(), spans, "restore", *words(folder, backup))
        host.check(f"flock {LOCK} true")
        now = seen(host)
        assert now in (old, new)
        told["over before" if not killed else "killed with the old" if now == old else "killed with the new"] += 1
        restored = run(deployment, "restore", folder, file=backup).ok()
        spans["restore"] = restored.seconds - 1  # Python starts first
        assert seen(host) == new
    assert_nothing_stays(deployment, host, folder)
    print(f"{kind}: {dict(told)}")
    assert told["killed with the old"] + told["killed with the new"] > 0


def words(folder: Path, backup: Path) -> list[str]:
    return ["--data", f"backups_folder={folder}", "--data", f"file={backup}"]


def assert_nothing_stays(deployment: Deployment, host: Host, folder: Path) -> None:
    """A backup takes away what killed runs left more than ten minutes ago."""
    host.check(f"find /var/lib/redkeep -maxdepth 1 -name 'snapshot.*' -exec touch -d '-{STALE_MINUTES + 1} minutes' {{}} +")
    run(deployment, "backup", folder).ok()
    assert temporary(host) == ""


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
