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
    assert re.search(rf"encrypts and decrypts +{old} +today\ndecrypts +{new}", shown)
    shown += run(capsys, "keys", "promote", *where)
    assert ids(folder) == [new, old]
    shown += run(capsys, "keys", "promote", new[:6], *where)
    assert "nothing was changed" in shown
    kept = SecretStore.open(folder).encryption_keys()
    shown += run(capsys, "keys", "retire", *where, "--force", "--env-file", str(folder / "none"))
    assert ids(folder) == [new]
    assert f"removed {old}; deploy to apply this. Lost: what they encrypted, which was not counted" in shown
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


def test_a_key_that_is_in_use_is_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """retire asks how much is sealed with what would go: nobody to ask, or anything at all, and nothing changes."""
    where = ("--secrets", str(folder))
    run(capsys, "keys", "add", *where)
    run(capsys, "keys", "promote", *where)
    before = new, old = ids(folder)
    counts = tmp_path / "counts.json"

    def refused(*more: str) -> str:
        assert main(["keys", "retire", *where, *more]) == 2
        assert ids(folder) == list(before)
        return capsys.readouterr().err

    assert f"whether entries still need {old} cannot be determined" in refused("--env-file", str(tmp_path / "none"))
    for text in ("[]", '{"sealed": 1}', '{"sealed": {"a": -1}, "readable": 0, "other": 0}'):
        counts.write_text(text)
        assert "these are no counts" in refused("--counts", str(counts))
    for text, says in (("", "is empty: the count failed on the app host"), ("{", "contains no counts; give what")):
        counts.write_text(text)
        assert f"{counts} {says}" in (said := refused("--counts", str(counts)))
        assert "--env-file" not in said
    assert "cannot be read: No such file" in refused("--counts", str(tmp_path / "none"))
    counts.write_text(f'{{"sealed": {{"{new}": 9, "{old}": 1234}}, "readable": 1, "other": 0}}')
    said = refused("--counts", str(counts))
    assert f"entries still encrypted with old keys: 1,234 with {old}; run `redkeep migrate-data` first" in said
    shown = run(capsys, "keys", "retire", *where, "--counts", str(counts), "--force")
    assert f"Lost: entries still encrypted with old keys: 1,234 with {old}" in shown


def test_a_key_that_is_not_in_use_may_go(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an entry under it, retire forgets the key and says nothing of a loss."""
    run(capsys, "keys", "add", "--secrets", str(folder))
    counts = tmp_path / "counts.json"
    counts.write_text(f'{{"sealed": {{"{ids(folder)[0]}": 9}}, "readable": 0, "other": 0}}')
    shown = run(capsys, "keys", "retire", "--secrets", str(folder), "--counts", str(counts))
    assert len(ids(folder)) == 1
    assert "Lost" not in shown
