"""The operator's secrets on disk, tampered with: refused with what to do."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from redkeep.crypto.store import SecretStore
from redkeep.errors import SecretStoreError
from tests.unit.stores import mode


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
    with pytest.raises(SecretStoreError, match="has disappeared"):
        store.password("another")
    assert not (folder / "secrets.json").exists()
