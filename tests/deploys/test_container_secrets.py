"""The docker runtime's day-2 verbs: every secret exchanged, backups taken, tried and brought back, in the same container."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploys.credentials import USERS
from redkeep.crypto.store import SecretStore
from tests.deploys.box import Box
from tests.deploys.box import box as box  # one of this file's own
from tests.deploys.clients import answers, app, opens
from tests.deploys.contents import CLI, KEYS, files, fill, run, seen, temporary

pytestmark = pytest.mark.soak


def test_everything_is_rotated_in_the_container(box: Box) -> None:
    """While the app works: passwords, certificates, CA and encryption key are exchanged; the app loses no operation, no old
    password opens anything, every answer is still one, and the container is the same and was not restarted."""
    store = SecretStore.open(box.deployment.secrets)
    old, keys, ca = {user: store.password(user) for user in USERS}, store.encryption_keys(), store.trust_bundle()
    leaf = box.host.check(f"ls /etc/{box.engine}/tls")
    before = box.identity()
    answers(box.host, "write")
    with app([box.host]) as seen_by_app:
        for what in ("passwords", "certificates", "ca", "encryption-key"):
            box.deployment.run("rotate", "--data", f"what={what}").ok()
    assert seen_by_app.wrong == []
    assert sum(seen_by_app.errors.values()) - seen_by_app.errors["server_unavailable"] == 0, seen_by_app.errors
    fresh = SecretStore.open(box.deployment.secrets)
    assert not [user for user in old if opens(box.host, user, old[user], address=box.address())]
    assert opens(box.host, "cache_service", fresh.password("cache_service"), address=box.address())
    assert box.host.check(f"ls /etc/{box.engine}/tls") != leaf
    assert ca not in fresh.trust_bundle()
    assert not set(fresh.encryption_keys()) & set(keys)
    assert answers(box.host, "read") == "200"
    assert before == box.identity()
    assert box.deployment.run("status").ok().drift == {}
    print(f"{box.host.name}: {seen_by_app.operations} operations, 0 lost, the slowest pair {seen_by_app.slowest:.2f} s")


def test_a_backup_of_the_container_is_tried_and_brought_back(box: Box, tmp_path: Path) -> None:
    """Sealed, tried by a throwaway server beside the container; after changes a restore brings every value and end back into the
    same container, by one restart, whatever its persistence is."""
    folder = tmp_path / "backups"
    fill(box.host)
    before, container = seen(box.host), box.identity()
    made = run(box.deployment, "backup", folder, drill="yes").ok()
    assert f"the drill loaded {KEYS} of {KEYS} keys; of 200 sampled keys 200 are the same on the server now" in made.output
    assert temporary(box.host) == ""
    assert container == box.identity()

    box.host.check(f"{CLI} SET ai_cache:1 other >/dev/null; {CLI} DEL hash set >/dev/null; {CLI} SET new 1 >/dev/null")
    (backup,) = files(folder)
    restored = run(box.deployment, "restore", folder, file=backup).ok()
    assert f"{KEYS} keys are loaded; the {KEYS - 1} current keys are backed up in" in restored.output
    assert seen(box.host) == before
    assert container[0] == box.identity()[0]
    assert temporary(box.host) == ""
    box.host.check(f"{CLI} FLUSHALL")
    assert box.deployment.run("status").ok().drift == {}
