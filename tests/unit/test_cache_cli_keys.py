"""`redkeep keys`: the ring in the operator's secrets, by key id and never by key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redkeep.cli import main
from redkeep.crypto.keyring import KeyRing, decode_key
from redkeep.crypto.store import SecretStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A secrets folder with one key."""
    path = tmp_path / "secrets"
    SecretStore.open(path, create=True).encryption_keys()
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a command that must work."""
    assert main(arguments) == 0
    return capsys.readouterr().out


def ids(folder: Path) -> list[str]:
    return [key.key_id.hex() for key in KeyRing.from_strings(SecretStore.open(folder).encryption_keys()).keys]


def test_generate(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that Settings accepts, new each time, and nothing else on the line."""
    one, other = run(capsys, "keys", "generate"), run(capsys, "keys", "generate")
    assert one != other
    assert len(decode_key(one.rstrip("\n"))) == 32


def test_a_whole_rotation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """add: opens, does not seal. promote: seals. retire: the old one is gone. No key is ever printed."""
    where = ("--secrets", str(folder))
    (old,) = ids(folder)
    shown = run(capsys, "keys", "add", *where)
    assert ids(folder)[0] == old
    new = ids(folder)[1]
    assert new in shown
    shown += run(capsys, "keys", "list", *where)
    assert re.search(rf"seals and opens +{old} +today\nopens +{new}", shown)
    shown += run(capsys, "keys", "promote", *where)
    assert ids(folder) == [new, old]
    shown += run(capsys, "keys", "promote", new[:6], *where)
    assert "nothing was changed" in shown
    kept = SecretStore.open(folder).encryption_keys()
    shown += run(capsys, "keys", "retire", *where)
    assert ids(folder) == [new]
    shown += run(capsys, "keys", "retire", *where)
    assert old in shown
    assert not any(key in shown for key in kept)


def test_wrong_ids(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An id that no key has, or two have, changes nothing."""
    run(capsys, "keys", "add", "--secrets", str(folder))
    before = ids(folder)
    assert main(["keys", "promote", "zz", "--secrets", str(folder)]) == 2
    assert main(["keys", "retire", "--keep", "0", "--secrets", str(folder)]) == 2
    assert "redkeep:" in capsys.readouterr().err
    assert ids(folder) == before
