"""Backups on the operator's side: whole files with private modes, told apart by their heads, and only so many of them."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path

import pytest
from pyinfra.api import DeployError

from deploys import backups
from deploys.stages import backing_up, recovery, snapshot
from redkeep.crypto.archive import generate_private_key, public_key
from redkeep.errors import ConfigurationError
from tests.unit.wanted import FakeSite, bundle

KEY = generate_private_key()
CONTENT = b"REDIS0010" + bytes(200_000)


def head(host: str = "r1", taken: str = "2026-03-01T10:00:00+00:00", **more: object) -> dict[str, object]:
    known = {"host": host, "taken": taken, "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return known | {"engine": "redis", "version": "7.0.15", "keys": 3, "expires": 1} | more


def write(folder: Path, **about: object) -> backups.Backup:
    return backups.write_backup(folder, [CONTENT[:70_000], CONTENT[70_000:]], recipient=public_key(KEY), head=head(**about))  # type: ignore[arg-type]


def test_a_backup_is_private_sealed_and_opens_again(tmp_path: Path) -> None:
    """Mode 0600 in a folder of 0700; the content is not in it; what comes out is what went in."""
    made = write(tmp_path / "backups" / "test")
    assert made.path.name == "r1-20260301T100000Z.redkeep"
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.path.parent.stat().st_mode & 0o777 == 0o700
    assert b"REDIS0010" not in made.path.read_bytes()
    found = backups.read_backup(made.path)
    assert found.version == "redis 7.0.15"
    assert b"".join(backups.content_of(found, private_key=KEY)) == CONTENT


@pytest.mark.parametrize("lie", [{"size": 5}, {"sha256": "0" * 64}])
def test_content_that_is_not_what_was_announced_leaves_no_file(tmp_path: Path, lie: dict[str, object]) -> None:
    """Cut on its way, or another: no backup, and no rest of one."""
    folder = tmp_path / "b"
    with pytest.raises(ConfigurationError, match="length or checksum"):
        write(folder, **lie)
    assert list(folder.iterdir()) == []


def test_a_source_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    """Whatever is raised while the content comes, nothing half written stays."""

    def pieces() -> object:
        yield CONTENT[:1000]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        backups.write_backup(tmp_path / "b", pieces(), recipient=public_key(KEY), head=head())  # type: ignore[arg-type]
    assert list((tmp_path / "b").iterdir()) == []


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    """With what to do."""
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        write(tmp_path)


def test_damage_another_key_and_no_backup_are_told_apart(tmp_path: Path) -> None:
    """Each is one sentence that names the file."""
    made = write(tmp_path / "b")
    with pytest.raises(ConfigurationError, match=r"r1-.*encrypted for another key"):
        list(backups.content_of(made, private_key=generate_private_key()))
    damaged = bytearray(made.path.read_bytes())
    damaged[-100] ^= 1
    made.path.write_bytes(damaged)
    with pytest.raises(ConfigurationError, match=r"r1-.*damaged or truncated"):
        list(backups.content_of(made, private_key=KEY))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigurationError, match="not a redkeep archive"):
        backups.read_backup(tmp_path / "text")
    with pytest.raises(ConfigurationError, match="No such file"):
        backups.read_backup(tmp_path / "nothing")


def test_the_newest_of_each_host_stay(tmp_path: Path) -> None:
    """Retention counts a host's own backups alone, and takes away what a run that died left half written."""
    folder = tmp_path / "b"
    for day in (3, 1, 2, 5, 4):
        write(folder, taken=f"2026-03-0{day}T10:00:00+00:00")
    other = write(folder, host="r2", taken="2026-02-01T10:00:00+00:00")
    (folder / "note.txt").write_text("mine")
    old, young = folder / ".r1-x.1234.partial", folder / ".r1-y.1234.partial"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    gone = backups.retire(folder, "r1", keep=2)
    assert sorted(path.name[3:11] for path in gone) == ["20260301", "20260302", "20260303"]
    assert [backup.path.name[3:11] for backup in backups.existing(folder, "r1")] == ["20260305", "20260304"]
    assert {other.path.name, "note.txt", young.name} < {path.name for path in folder.iterdir()}
    assert not old.exists()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"keep": "0"}, "keep=0 is not a number of backups: give one from 1 to 10000."),
        ({"keep": "-1"}, "keep=-1"),
        ({"keep": "many"}, "keep=many"),
        ({"drill": "maybe"}, "drill=maybe must be yes or no."),
    ],
)
def test_bad_input_of_a_backup_is_named(data: dict[str, str], sentence: str) -> None:
    """Which word, and what it may be."""
    with pytest.raises(ConfigurationError, match=sentence):
        backing_up.choose(data, Path("backups"))


def test_a_plan_has_sensible_defaults() -> None:
    """Seven are kept, none is tried."""
    assert backing_up.choose({"keep": None}, Path("b")) == backing_up.Plan(7, drill=False, folder=Path("b"))


def test_a_backup_whose_keys_are_gone_is_refused(tmp_path: Path) -> None:
    """Values that nothing opens would all be misses: refused, unless it is wanted."""
    made = write(tmp_path / "b", encryption_keys=["aa", "bb"])
    recovery.check_keys(made, ["cc", "bb"], force=False)
    recovery.check_keys(made, ["cc"], force=True)
    with pytest.raises(ConfigurationError, match=r"encrypted with aa, bb.*force=yes"):
        recovery.check_keys(made, ["cc"], force=False)
    with pytest.raises(ConfigurationError, match="Say which backup"):
        recovery.chosen({})


class Asked(FakeSite):
    """A host whose commands are kept, and answered as its `answer` says."""

    def changed(self) -> None:
        """Nothing to read again."""


@pytest.mark.parametrize("persistence", ["off", "aof"])
def test_a_full_disk_is_met_before_the_server_is_stopped(persistence: str) -> None:
    """All that needs room is copied while the server works; between its stop and its start there are only renames."""
    site = Asked(bundle(redis_persistence=persistence))
    recovery._swap(site, recovery.NEW)  # type: ignore[arg-type]
    (script,) = site.asked
    copied, stopped = script.index(f"cp {recovery.NEW}/dump.rdb"), script.index("systemctl stop")
    assert copied < script.index("sync .redkeep") < stopped < script.index("mv ", stopped) < script.index("systemctl start")
    assert "cp " not in script[stopped : script.index("systemctl start")]


@pytest.mark.parametrize("differs", [True, False])
def test_a_server_that_does_not_take_the_new_data_gets_the_old_again(
    differs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it does not come up, or shows something else: the old data is put back, and what was wrong is said."""
    done: list[str] = []

    def swap(site: object, source: str) -> None:
        done.append(source)
        if source == recovery.NEW and not differs:
            raise DeployError("@local: it does not start.")

    monkeypatch.setattr(recovery, "_swap", swap)
    monkeypatch.setattr(recovery, "_differs", lambda *_: "it shows something else.")
    site = FakeSite(bundle())
    said = recovery._replace(site, write(tmp_path), 3)  # type: ignore[arg-type]
    assert said == ("it shows something else." if differs else "it does not start.")
    assert done == [recovery.NEW, recovery.BEFORE]
    assert any(f"rm -rf {recovery.BEFORE}" in command for command in site.asked)  # a later restore would take it for the data of its day


class Receiving(FakeSite):
    """A host that keeps what is sent to it."""

    def run(self, command: str, *, stdin: str = "") -> tuple[bool, list[str], list[str]]:
        self.asked.append(command)
        self.received += base64.b64decode(stdin)
        return True, [hashlib.sha256(self.received).hexdigest() + "  -"], []

    received = b""


def test_a_snapshot_is_sent_in_few_commands(tmp_path: Path) -> None:
    """An archive opens in pieces of 64 KiB: a command for each would be sixteen thousand for 1 GiB."""
    content = os.urandom(snapshot.PIECE_BYTES * 2 + 1)
    digest = hashlib.sha256(content).hexdigest()
    made = backups.write_backup(tmp_path, [content], recipient=public_key(KEY), head=head(size=len(content), sha256=digest))
    site = Receiving(bundle())
    snapshot.send(site, backups.content_of(made, private_key=KEY), folder="/x", sha256=digest)  # type: ignore[arg-type]
    assert site.received == content
    assert sum("base64 -d" in command for command in site.asked) == 3


@pytest.mark.parametrize("begun", [True, False])
def test_the_data_that_a_restore_replaces_is_backed_up_whatever_an_earlier_one_left(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that died may have left its copy on the host. It is what to go back to only once that run had begun to replace the
    data; in any case what the server has now is backed up."""
    left: list[str] = []

    def make(site: object, folder: Path, *, leave: str = "") -> backups.Backup:
        left.append(leave)
        return write(folder)

    monkeypatch.setattr(recovery.backing_up, "make", make)
    monkeypatch.setattr(recovery, "keys_of", lambda _: (3, 4))
    site = FakeSite(bundle(), answer=(begun, [], []))
    said = recovery._set_aside(site, recovery.Plan(write(tmp_path), tmp_path))  # type: ignore[arg-type]
    assert left == ["" if begun else recovery.BEFORE]
    assert said.startswith(f"the 7 current keys are backed up in {tmp_path}")
    assert ("an earlier run" in said) is begun
    (question,) = site.asked
    assert f"[ -e {recovery.BEGUN} ]" in question


def test_a_restore_notes_on_the_host_that_it_begins_to_replace_the_data() -> None:
    """After all that can fail beforehand, and before the server stops."""
    site = Asked(bundle())
    recovery._swap(site, recovery.NEW)  # type: ignore[arg-type]
    (script,) = site.asked
    assert script.index("sync .redkeep") < script.index(recovery.BEGUN) < script.index("systemctl stop")
