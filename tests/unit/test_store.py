"""The operator's secrets: made once, kept private, renewed when they must be."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from redkeep.crypto.folder import SecretFolder
from redkeep.crypto.keyring import KeyRing
from redkeep.crypto.passwords import password_hash
from redkeep.crypto.pki import check_leaf
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError, SecretStoreError
from tests.unit.stores import STRONG, fill, mode, stamp


def test_folder_and_file_are_private_from_birth(folder: Path) -> None:
    """Even under umask 0 the folder and its new parents are 0700, every file in it 0600."""
    before = os.umask(0)
    try:
        SecretStore.open(folder, create=True).password("cache_service")
    finally:
        os.umask(before)
    assert [0o700, 0o700] == [mode(folder.parent), mode(folder)]
    assert {"secrets.json": 0o600, ".lock": 0o600} == {path.name: mode(path) for path in folder.iterdir()}


def test_missing_secrets_say_what_to_run(folder: Path) -> None:
    """Without secrets, and without `create`, the error names the command; nothing is made."""
    with pytest.raises(SecretStoreError, match=f"redkeep secrets init --secrets {folder}"):
        SecretStore.open(folder)
    assert not folder.exists()


def test_secrets_are_made_once(folder: Path, store: SecretStore) -> None:
    """A second opening gives the same passwords, keys, authority and leaf, and writes nothing."""
    fill(store)
    before = stamp(folder)
    again = SecretStore.open(folder, create=True)
    fill(again)
    for user in store.users():
        assert store.password(user) == again.password(user)
    assert store.encryption_keys() == again.encryption_keys()
    assert store.trust_bundle() == again.trust_bundle()
    assert store.leaves() == again.leaves()
    assert before == stamp(folder)


def test_one_transaction_is_one_write(
    folder: Path, store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy's worth of new secrets in a transaction writes the file once."""
    writes = []
    write = SecretFolder.write
    monkeypatch.setattr(
        SecretFolder, "write", lambda self, content: (writes.append(1), write(self, content))[1]
    )
    fill(store)
    assert [1] == writes
    fill(store)
    assert [1] == writes


def test_reading_needs_no_heavy_import(folder: Path, store: SecretStore) -> None:
    """Reading everything loads no cryptography, pydantic or rich,."""
    fill(store)
    script = f"""
import sys
from pathlib import Path
from redkeep.crypto.store import SecretStore
def read():
    store = SecretStore.open(Path({str(folder)!r}))
    [store.password_hashes(user) for user in store.users()]
    store.encryption_keys(), store.trust_bundle()
    for number in range(15):
        store.leaf(f"redis-{{number}}", [f"redis-{{number}}.internal", "10.0.0.5"], use="replication")
read()
print([name for name in ("cryptography", "pydantic", "rich", "subprocess") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ("[]\n", "") == (ran.stdout, ran.stderr)


def test_failed_transaction_changes_nothing(folder: Path, store: SecretStore) -> None:
    """When the block raises, neither the file nor the store has changed."""
    fill(store)
    before, password = stamp(folder), store.password("operator")

    def half_a_deploy() -> None:
        with store.transaction():
            store.rotate_password("operator")
            store.password("newcomer")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_a_deploy()
    assert (before, password) == (stamp(folder), store.password("operator"))
    assert "newcomer" not in store.users()


def test_password_rotation_overlaps(folder: Path, store: SecretStore) -> None:
    """Rotation keeps two hashes, the new one first, until the old one is retired."""
    old = store.password("cache_service")
    new = store.rotate_password("cache_service")
    assert new == store.password("cache_service") != old
    assert (new, old) == store.passwords("cache_service")
    assert (password_hash(new), password_hash(old)) == store.password_hashes("cache_service")
    store.rotate_password("cache_service")
    assert 2 == len(store.password_hashes("cache_service"))
    store.retire_password("cache_service")
    again = SecretStore.open(folder)
    assert (password_hash(again.password("cache_service")),) == again.password_hashes("cache_service")


def test_set_password_is_validated_and_alone(store: SecretStore) -> None:
    """A chosen password replaces all others; one with a newline is refused unseen and changes nothing."""
    store.rotate_password("operator")
    store.set_password("operator", STRONG)
    assert (password_hash(STRONG),) == store.password_hashes("operator")
    evil = STRONG + "\nuser evil on nopass ~* +@all"
    with pytest.raises(ConfigurationError, match="the password of operator holds a line break") as caught:
        store.set_password("operator", evil)
    assert evil not in str(caught.value)
    assert STRONG == store.password("operator")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "../x", "-x", "x" * 65, "a/b", ".hidden"])
def test_names_are_safe(store: SecretStore, name: str) -> None:
    """No user or leaf has a name that could break out of an ACL line or a folder."""
    with pytest.raises(ConfigurationError):
        store.password(name)
    with pytest.raises(ConfigurationError):
        store.leaf(name, ["a"], use="server")


def test_encryption_keys_rotate(store: SecretStore) -> None:
    """A key can be added last, promoted, and the rest retired: readers first, then the writer."""
    (first,) = store.encryption_keys()
    second = store.add_encryption_key(sealing=False)
    assert (first, second) == store.encryption_keys()
    store.promote_encryption_key(second)
    assert (second, first) == store.encryption_keys()
    assert 2 == len(KeyRing.from_strings(store.encryption_keys()))
    third = store.add_encryption_key()
    store.retire_encryption_keys(keep=2)
    assert (third, second) == store.encryption_keys()
    with pytest.raises(ConfigurationError):
        store.promote_encryption_key(first)
    with pytest.raises(ConfigurationError):
        store.retire_encryption_keys(keep=0)


def test_leaf_is_kept_until_it_must_change(store: SecretStore) -> None:
    """The same leaf comes back until it is within 30 days of its end, or its names or use differ."""
    now = datetime.now(UTC)
    first = store.leaf("redis-1", ["a.internal", "10.0.0.5"], use="server", now=now)
    assert first == store.leaf("redis-1", ["10.0.0.5", "A.internal"], use="server", now=now)
    assert first == store.leaf(
        "redis-1", ["a.internal", "10.0.0.5"], use="server", now=now + timedelta(days=58)
    )
    late = now + timedelta(days=60)
    second = store.leaf("redis-1", ["a.internal", "10.0.0.5"], use="server", now=late)
    assert first != second
    assert second == store.leaf("redis-1", ["a.internal", "10.0.0.5"], use="server", now=late)
    third = store.leaf("redis-1", ["a.internal"], use="server", now=late)
    assert ("a.internal",) == third.names
    assert "replication" == store.leaf("redis-1", ["a.internal"], use="replication", now=late).use
    assert "redis-1" == third.common_name


def test_leaf_names_default_to_its_name(store: SecretStore) -> None:
    """A server without names is named after itself; a client carries its name as common name only."""
    assert ("redis-1",) == store.leaf("redis-1", use="server").names
    client = store.leaf("cache_service", use="client")
    assert ((), "cache_service") == (client.names, client.common_name)
    with pytest.raises(ConfigurationError, match="before it expires"):
        store.leaf("redis-1", use="server", renew_within_days=89)


def test_new_authority_beside_the_old(store: SecretStore) -> None:
    """Both authorities are trusted, leaves stay until reissued, and each step of the rollover verifies."""
    leaf = store.leaf("redis-1", use="server")
    old = store.trust_bundle()
    assert leaf == store.reissue("redis-1")
    store.add_authority()
    assert store.trust_bundle().endswith(old)
    assert store.trust_bundle().startswith(store.authority().cert_pem)
    assert leaf == store.leaf("redis-1", use="server")
    fresh = store.reissue("redis-1")
    assert leaf != fresh == store.reissue("redis-1")
    for one in (leaf, fresh):
        check_leaf(one, trust=[store.trust_bundle()], names=["redis-1"], use="server")
    store.retire_authorities()
    assert store.authority().cert_pem == store.trust_bundle()
    check_leaf(fresh, trust=[store.trust_bundle()], names=["redis-1"], use="server")


def test_renew_forces(store: SecretStore) -> None:
    """`renew` issues again at once, same names and use; an unknown leaf is refused."""
    leaf = store.leaf("redis-1", ["a", "b"], use="replication")
    fresh = store.renew("redis-1")
    assert leaf.fingerprint != fresh.fingerprint
    assert (leaf.names, leaf.use) == (fresh.names, fresh.use)
    for change in (store.renew, store.reissue):
        with pytest.raises(SecretStoreError, match="certs list"):
            change("redis-2")


def test_ending_authority_does_not_cause_churn(store: SecretStore) -> None:
    """When the authority itself ends soon, a leaf that ends with it is not issued anew at every run."""
    near_end = datetime.now(UTC) + timedelta(days=3650 - 10)
    leaf = store.leaf("redis-1", use="server", now=near_end)
    assert leaf == store.leaf("redis-1", use="server", now=near_end + timedelta(hours=1))


def test_entries_show_no_value(store: SecretStore) -> None:
    """What is shown of the secrets is kinds, names and short fingerprints, no value; nor does repr."""
    fill(store)
    store.rotate_password("operator")
    shown = repr(store.entries()) + repr(store) + repr(store.authority()) + repr(store.leaves())
    for value in (*map(store.password, store.users()), *store.encryption_keys(), "PRIVATE"):
        assert value not in shown
    kinds = [row.kind for row in store.entries()]
    assert ["password"] * 3 + ["old password", "encryption key", "CA"] == kinds[:6]
    assert ["replication certificate"] * 15 == kinds[6:]
