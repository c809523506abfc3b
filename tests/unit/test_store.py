"""The operator's secrets: made once, kept private, never half written."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from redkeep.crypto import folder as folder_module
from redkeep.crypto.folder import SecretFolder
from redkeep.crypto.keyring import KeyRing
from redkeep.crypto.passwords import password_hash
from redkeep.crypto.pki import check_leaf
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError, SecretStoreError

PASSPHRASE = "seven wooden ships at dawn"
STRONG = "kX7_qL2-vR9zTm4bWc8s"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "local"


@pytest.fixture
def store(folder: Path) -> SecretStore:
    return SecretStore.open(folder, create=True)


@pytest.fixture(scope="module")
def sealed_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sealed") / "local"
    SecretStore.open(folder, passphrase=PASSPHRASE, create=True)
    return (folder / "secrets.json").read_bytes()


def stamp(folder: Path) -> tuple[int, int]:
    status = (folder / "secrets.json").stat()
    return status.st_ino, status.st_mtime_ns


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its wait status."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def fill(store: SecretStore) -> None:
    with store.transaction():
        for user in ("cache_service", "health_service", "operator"):
            store.password(user)
        store.encryption_keys()
        for number in range(15):
            store.leaf(f"redis-{number}", [f"redis-{number}.internal", "10.0.0.5"], use="replication")


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
    with pytest.raises(ConfigurationError, match="renewed within"):
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


def test_loose_modes_are_refused(folder: Path, store: SecretStore) -> None:
    """A folder or file open to others is refused, and the remedy is a command that works."""
    store.password("operator")
    for path, loose in [(folder, 0o750), (folder, 0o701), (folder / "secrets.json", 0o640)]:
        tight = mode(path)
        path.chmod(loose)
        with pytest.raises(SecretStoreError) as caught:
            SecretStore.open(folder)
        remedy = str(caught.value).split("`")[1]
        assert f"chmod {tight:o} {path}" == remedy
        subprocess.run(remedy.split(), check=True)
        SecretStore.open(folder)


def test_symlinks_are_refused(folder: Path, store: SecretStore, tmp_path: Path) -> None:
    """Neither the folder nor the file may be a symlink, dangling or not."""
    store.password("operator")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for link in ("link", "dangling"):
        with pytest.raises(SecretStoreError, match="symlink"):
            SecretStore.open(tmp_path / link, create=True)
    (folder / "secrets.json").rename(tmp_path / "elsewhere")
    (folder / "secrets.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SecretStoreError, match="symlink"):
        SecretStore.open(folder)


def test_planted_lock_symlink_is_not_followed(folder: Path, store: SecretStore, tmp_path: Path) -> None:
    """A lock that is a symlink is refused, and what it names is not made."""
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(SecretStoreError, match="cannot lock"):
        store.password("operator")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": "other"}']
    + [
        json.dumps({"format": "redkeep-secrets", "version": version}).encode()
        for version in (1, 2, "1", None)
    ]
    + [
        json.dumps(
            {"format": "redkeep-secrets", "version": 1, "passwords": passwords}
            | {"encryption_keys": [], "authorities": [], "leaves": {}}
        ).encode()
        for passwords in (
            [],
            {"a": {}},
            {"a": {"values": [], "made": ""}},
            {"a": {"values": [1], "made": ""}},
        )
    ],
)
def test_damaged_files(folder: Path, store: SecretStore, content: bytes) -> None:
    """A file that is not ours, or damaged, is an error that names it, and is never overwritten."""
    (folder / "secrets.json").write_bytes(content)
    with pytest.raises(SecretStoreError, match=r"secrets\.json"):
        SecretStore.open(folder, create=True)
    assert content == (folder / "secrets.json").read_bytes()


def test_deleted_file_is_not_remade(folder: Path, store: SecretStore) -> None:
    """When the file goes away under an open store, it stops: new secrets would lock every client out."""
    store.password("operator")
    (folder / "secrets.json").unlink()
    with pytest.raises(SecretStoreError, match="is gone"):
        store.password("another")
    assert not (folder / "secrets.json").exists()


def test_lock_held_too_long(folder: Path, store: SecretStore) -> None:
    """A lock that another run keeps is reported, not waited for without end."""
    place = SecretFolder(folder)
    with (
        place.locked(),
        pytest.raises(SecretStoreError, match="another run holds"),
        place.locked(seconds=0.05),
    ):
        pass
    with place.locked(seconds=0.05):
        pass


def test_sealed_file_shows_nothing(folder: Path, store: SecretStore) -> None:
    """A sealed file shows no secret and no name, opens with its passphrase only, and stays sealed."""
    password, key = store.password("cache_service"), store.encryption_keys()[0]
    store.leaf("redis-1", use="server")
    store.seal(PASSPHRASE)
    store.password("later")
    content = (folder / "secrets.json").read_bytes()
    for text in (password, key, "cache_service", "PRIVATE", "redis-1"):
        assert text.encode() not in content
    assert SecretStore.is_sealed(folder)
    with pytest.raises(SecretStoreError, match="is sealed"):
        SecretStore.open(folder)
    with pytest.raises(SecretStoreError, match="wrong passphrase"):
        SecretStore.open(folder, passphrase="seven wooden ships at dusk")
    again = SecretStore.open(folder, passphrase=PASSPHRASE)
    assert (password, (key,), True) == (
        again.password("cache_service"),
        again.encryption_keys(),
        again.sealed,
    )
    again.unseal()
    assert password == SecretStore.open(folder).password("cache_service")


def test_sealed_from_birth(folder: Path) -> None:
    """A store created with a passphrase is never in clear on the disk; a weak passphrase makes nothing."""
    with pytest.raises(ConfigurationError):
        SecretStore.open(folder, passphrase="weak", create=True)
    assert not folder.exists()
    SecretStore.open(folder, passphrase=PASSPHRASE, create=True)
    assert SecretStore.is_sealed(folder)


def test_passphrase_for_an_open_file_is_refused(folder: Path, store: SecretStore) -> None:
    """Who expects a sealed file is told that it is not, instead of using what may have been planted."""
    store.password("operator")
    with pytest.raises(SecretStoreError, match="is not sealed although"):
        SecretStore.open(folder, passphrase=PASSPHRASE)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("iterations", 600_001, "wrong passphrase"),
        ("iterations", 1, "out of range"),
        ("iterations", 10**12, "out of range"),
        ("iterations", "600000", "out of range"),
        ("salt", "AAAA", "too short"),
        ("salt", None, "missing or not base64"),
        ("nonce", "AAAAAAAAAAAAAAAA", "wrong passphrase"),
        ("nonce", "AAAA", "wrong length"),
        ("cipher", "null", "does not know"),
        ("kdf", "md5", "does not know"),
        ("ciphertext", "AAAA" * 20, "wrong passphrase"),
        ("ciphertext", "!", "missing or not base64"),
        ("extra", "1", "wrong passphrase"),
    ],
)
def test_sealed_header_is_authenticated(
    folder: Path, store: SecretStore, sealed_file: bytes, field: str, value: object, reason: str
) -> None:
    """Any change to a sealed file's header or content keeps it shut, and none makes us work for hours."""
    changed = json.dumps(json.loads(sealed_file) | {field: value})
    (folder / "secrets.json").write_text(changed)
    with pytest.raises(SecretStoreError, match=reason):
        SecretStore.open(folder, passphrase=PASSPHRASE)


def test_changed_passphrase_under_an_open_store(folder: Path) -> None:
    """A store opened before the passphrase changed stops instead of writing under the old one."""
    first = SecretStore.open(folder, passphrase=PASSPHRASE, create=True)
    SecretStore.open(folder, passphrase=PASSPHRASE).seal(PASSPHRASE + " again")
    with pytest.raises(SecretStoreError, match="another passphrase"):
        first.password("operator")


def test_entries_show_no_value(store: SecretStore) -> None:
    """What is shown of the secrets is kinds, names and short fingerprints, no value; nor does repr."""
    fill(store)
    store.rotate_password("operator")
    shown = repr(store.entries()) + repr(store) + repr(store.authority()) + repr(store.leaves())
    for value in (*map(store.password, store.users()), *store.encryption_keys(), "PRIVATE"):
        assert value not in shown
    kinds = [row.kind for row in store.entries()]
    assert ["password"] * 3 + ["old password", "encryption key", "authority"] == kinds[:6]
    assert ["replication certificate"] * 15 == kinds[6:]
