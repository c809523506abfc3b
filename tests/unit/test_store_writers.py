"""Several writers of the operator's secrets, killed ones and full disks: never half written, nothing lost."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from redkeep.crypto import folder as folder_module
from redkeep.crypto.folder import SecretFolder
from redkeep.crypto.store import SecretStore
from redkeep.errors import SecretStoreError
from tests.unit.stores import STRONG, in_child


def test_two_processes_make_one_password(folder: Path) -> None:
    """Six runs that open a new folder at once end up with one password, one key and one authority."""
    ready, go = os.pipe(), os.pipe()
    children = []
    for number in range(6):
        child = os.fork()
        if not child:
            try:
                os.write(ready[1], b"r")
                os.read(go[0], 1)
                store = SecretStore.open(folder, create=True)
                seen = [
                    store.password("cache_service"),
                    *store.encryption_keys(),
                    store.trust_bundle().decode(),
                ]
                (folder.parent.parent / f"seen-{number}").write_text(json.dumps(seen))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    for _ in children:
        os.read(ready[0], 1)
    os.write(go[1], b"g" * 6)
    assert [0] * 6 == [os.waitpid(child, 0)[1] for child in children]
    assert 1 == len({path.read_text() for path in folder.parent.parent.glob("seen-*")})


def test_others_changes_are_kept(folder: Path, store: SecretStore) -> None:
    """Two stores open on one folder do not undo each other's writes."""
    other = SecretStore.open(folder)
    store.password("one")
    other.password("two")
    store.password("three")
    assert ("one", "two", "three") == store.users()
    assert store.password("one") == SecretStore.open(folder).password("one")


def test_threads_share_a_store(store: SecretStore) -> None:
    """Eight threads asking one store for one new password get the same."""
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(store.password("cache_service"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.password("cache_service")] * 8 == seen


@pytest.mark.parametrize("call", ["open", "fchmod", "fsync", "rename", "fsync again"])
def test_kill_during_write(folder: Path, store: SecretStore, call: str) -> None:
    """Killed at any step of a write, the file is the old or the new one; the next write tidies up."""
    old = store.password("operator")

    def die_at_call() -> None:
        name, _, again = call.partition(" ")
        real, left = getattr(os, name), [2 if again else 1]

        def deadly(*args: object, **kwargs: object) -> object:
            creating = name != "open" or ".secrets.json." in str(args[0])
            left[0] -= creating
            if not left[0] and creating:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(folder_module.os, name, deadly)
        store.set_password("operator", STRONG)

    assert signal.SIGKILL == in_child(die_at_call)
    after = SecretStore.open(folder)
    assert (STRONG if call == "fsync again" else old) == after.password("operator")
    after.password("another")
    assert {"secrets.json", ".lock"} == {path.name for path in folder.iterdir()}


def test_full_disk_keeps_the_old_file(
    folder: Path, store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, the error says so, the old file stays, and the store does not pretend."""
    old = store.password("operator")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.os, "fsync", full)
    with pytest.raises(SecretStoreError, match="No space left on device"):
        store.set_password("operator", STRONG)
    assert old == store.password("operator") == SecretStore.open(folder).password("operator")
    assert {"secrets.json", ".lock"} == {path.name for path in folder.iterdir()}


def test_lock_held_too_long(folder: Path, store: SecretStore) -> None:
    """A lock that another run keeps is reported, not waited for without end."""
    place = SecretFolder(folder)
    with (
        place.locked(),
        pytest.raises(SecretStoreError, match="another run has locked"),
        place.locked(seconds=0.05),
    ):
        pass
    with place.locked(seconds=0.05):
        pass
