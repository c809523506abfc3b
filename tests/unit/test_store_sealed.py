"""The operator's secrets under a passphrase."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError, SecretStoreError
from tests.unit.stores import PASSPHRASE


@pytest.fixture(scope="module")
def sealed_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sealed") / "local"
    SecretStore.open(folder, passphrase=PASSPHRASE, create=True)
    return (folder / "secrets.json").read_bytes()


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
