"""Files and folders as differences: what is wrong, and shell that mends it without a loose or half-written moment."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import time
from pathlib import Path

import pytest

from deploys.difference import Difference, ManagedFile, encode, file_differences, folder_differences, locked, place
from deploys.facts.survey import LOCK, FileState
from tests.unit.wanted import survey

# The scripts run as root on a host; here as whoever runs the tests.
ME, MINE = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
EVERY_BYTE = bytes(range(256)) * 300


def mend(script: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script as the deploy does."""
    return subprocess.run(["sh", "-c", "set -eu\n" + script], input=stdin, capture_output=True, text=True, timeout=30, check=False)


def managed(path: Path, content: bytes = b"new\n", mode: str = "0640") -> ManagedFile:
    return ManagedFile(str(path), content, ME, MINE, mode)


def put(file: ManagedFile, before: str = "") -> subprocess.CompletedProcess[str]:
    return mend(place(file, before), encode(file.content))


@pytest.mark.parametrize("content", [b"", b"\n", b"no newline", EVERY_BYTE, b"'\"$(id)`id`\\\0%s\r\n"], ids=len)
def test_a_file_arrives_byte_for_byte(tmp_path: Path, content: bytes) -> None:
    """Every byte, no byte more, with owner and mode; nothing else is left in the folder."""
    done = put(managed(tmp_path / "file", content))
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert content == (tmp_path / "file").read_bytes()
    found = (tmp_path / "file").stat()
    assert (0o640, os.geteuid(), os.getegid()) == (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    assert ["file"] == os.listdir(tmp_path)


def test_a_path_with_odd_characters_is_one_path(tmp_path: Path) -> None:
    """Spaces, quotes and $(...) in a path are part of it."""
    path = tmp_path / "a b'\"$(id)"
    assert 0 == put(managed(path)).returncode
    assert [path.name] == os.listdir(tmp_path)


def test_a_file_has_its_mode_before_it_is_in_place(tmp_path: Path) -> None:
    """What is moved has its final mode and owner already."""
    assert "640\n" == put(managed(tmp_path / "file"), before='stat -c %a "$t"').stdout


def test_the_temporary_file_is_born_closed(tmp_path: Path) -> None:
    """Before the first byte arrives the file has mode 0600: stop the writer there and look."""
    process = subprocess.Popen(["sh", "-c", f"umask 000\nset -eu\n{place(managed(tmp_path / 'file'))}"], stdin=subprocess.PIPE)
    try:
        end = time.monotonic() + 5
        while not os.listdir(tmp_path) and time.monotonic() < end:
            time.sleep(0.005)
        assert [0o600] == [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
    finally:
        process.communicate(encode(b"new\n").encode())
    assert b"new\n" == (tmp_path / "file").read_bytes()


def test_the_old_file_is_replaced_at_once(tmp_path: Path) -> None:
    """A reader that holds the old file keeps it whole: the new one is another inode, moved into place."""
    path = tmp_path / "file"
    path.write_text("old\n")
    with path.open() as reader:
        put(managed(path))
        assert "old\n" == reader.read()
    assert b"new\n" == path.read_bytes()


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 77, 78, 10**9])
def test_a_text_cut_short_is_not_put_in_place(tmp_path: Path, lost: int) -> None:
    """A connection that ends early, at any boundary of base64, leaves the old file and nothing beside it."""
    path = tmp_path / "file"
    path.write_text("old\n")
    file = managed(path, b"x" * 570)
    text = encode(file.content)
    done = mend(place(file), text[: max(0, len(text) - 1 - lost)])
    assert done.returncode != 0
    assert (["file"], "old\n") == (os.listdir(tmp_path), path.read_text())


def test_a_failing_check_leaves_the_old_file(tmp_path: Path) -> None:
    """`before` sees the new text as $t and stops the move; the temporary file goes."""
    path = tmp_path / "file"
    path.write_text("old\n")
    done = put(managed(path), before='cat "$t"; echo refused >&2; false')
    assert (1, "new\n", "refused\n") == (done.returncode, done.stdout, done.stderr)
    assert (["file"], "old\n") == (os.listdir(tmp_path), path.read_text())


def test_an_unknown_owner_leaves_the_old_file(tmp_path: Path) -> None:
    """A failure between writing and moving leaves nothing behind."""
    path = tmp_path / "file"
    path.write_text("old\n")
    done = put(ManagedFile(str(path), b"new\n", ME, "no-such-group"))
    assert done.returncode != 0
    assert (["file"], "old\n") == (os.listdir(tmp_path), path.read_text())


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Nothing is written elsewhere instead."""
    assert put(managed(tmp_path / "absent" / "file")).returncode != 0
    assert [] == os.listdir(tmp_path)


def test_a_folder_in_the_file_s_place_goes(tmp_path: Path) -> None:
    """A folder, full or empty, is replaced."""
    (tmp_path / "file" / "sub").mkdir(parents=True)
    (tmp_path / "file" / "sub" / "x").touch()
    assert 0 == put(managed(tmp_path / "file")).returncode
    assert b"new\n" == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("target", ["victim", "folder", "absent"])
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, target: str) -> None:
    """What a planted link points to stays as it is."""
    (tmp_path / "victim").write_text("victim\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    (tmp_path / "file").symlink_to(target)
    assert 0 == put(managed(tmp_path / "file")).returncode
    assert (False, b"new\n") == ((tmp_path / "file").is_symlink(), (tmp_path / "file").read_bytes())
    assert ("victim\n", ["x"]) == ((tmp_path / "victim").read_text(), os.listdir(tmp_path / "folder"))
    assert ["file", "folder", "victim"] == sorted(os.listdir(tmp_path))


def test_after_runs_once_the_file_is_there(tmp_path: Path) -> None:
    """What must follow a file runs in the same script, after the move."""
    path = tmp_path / "file"
    (difference,) = file_differences([managed(path)], survey(), after=f"cat {path}")
    assert isinstance(difference.stdin, str)
    assert "new\n" == mend(difference.script, difference.stdin).stdout


def test_no_content_is_in_the_script_or_the_sentence() -> None:
    """A secret travels on standard input alone; what is shown and logged has neither text nor digest of it."""
    file = ManagedFile("/etc/redkeep/cache.env", b"canary-5f1\n")
    (difference,) = file_differences([file], survey())
    shown = repr(difference) + difference.what + difference.script + repr(file)
    assert [False] * 3 == [word in shown for word in ("canary-5f1", encode(file.content).strip(), file.sha256)]


SAME = FileState("file", "0640", "root", "redis", ManagedFile("", b"new\n").sha256)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (FileState(), "is missing"),
        (FileState("link", "0777", "root", "root", "", "/etc/passwd"), "is a link, wanted a file"),
        (FileState("directory", "0755", "root", "root"), "is a directory, wanted a file"),
        (FileState("other", "0640", "root", "redis"), "is a other, wanted a file"),
        (FileState("file", "0640", "root", "redis", "0" * 64), "has different content"),
        (FileState("file", "0640", "root", "redis", ""), "has different content"),
        (FileState("file", "0644", "root", "redis", SAME.sha256), "has mode 0644, wanted 0640"),
        (FileState("file", "4640", "root", "redis", SAME.sha256), "has mode 4640, wanted 0640"),
        (FileState("file", "0640", "redis", "redis", SAME.sha256), "belongs to redis:redis, wanted root:redis"),
        (SAME, ""),
    ],
)
def test_what_is_wrong_with_a_file(found: FileState, sentence: str) -> None:
    """One sentence for the first thing that is wrong, none for a file as wanted."""
    file = ManagedFile("/f", b"new\n", group="redis", mode="0640")
    assert sentence == file.wrong(found)
    assert [f"file /f {sentence}"] * bool(sentence) == [d.what for d in file_differences([file], survey(files={"/f": found}))]


def folder(path: Path, mode: str = "0750") -> list[Difference]:
    return folder_differences([(str(path), ME, MINE, mode)], survey())


@pytest.mark.parametrize("mode", ["0700", "0750", "0755", "2750"])
@pytest.mark.parametrize("old", ["0755", "0777", "2777", "1777", "absent"])
def test_a_folder_gets_exactly_its_mode(tmp_path: Path, old: str, mode: str) -> None:
    """Set-group-ID and sticky bits that are not wanted go too."""
    path = tmp_path / "folder"
    if old != "absent":
        path.mkdir()
        path.chmod(int(old, 8))
    assert 0 == mend(folder(path, mode)[0].script).returncode
    assert oct(int(mode, 8)) == oct(stat.S_IMODE(path.stat().st_mode))


def test_a_folder_keeps_what_is_in_it(tmp_path: Path) -> None:
    """Only owner and mode change."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "x").write_text("kept")
    mend(folder(path)[0].script)
    assert "kept" == (path / "x").read_text()


@pytest.mark.parametrize("kind", ["file", "link to folder", "broken link"])
def test_something_else_in_a_folder_s_place_goes(tmp_path: Path, kind: str) -> None:
    """A file or a link is replaced by a folder; what a link points to stays."""
    path, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if kind == "file":
        path.touch()
    else:
        path.symlink_to(elsewhere if kind == "link to folder" else tmp_path / "absent")
    assert 0 == mend(folder(path)[0].script).returncode
    assert (True, False) == (path.is_dir(), path.is_symlink())
    assert 0o755 == stat.S_IMODE(elsewhere.stat().st_mode)


def test_a_folder_as_wanted_is_no_difference() -> None:
    """Nothing is done to what is right."""
    found = {"/d": FileState("directory", "0750", "root", "redis")}
    assert [] == folder_differences([("/d", "root", "redis", "0750")], survey(files=found))
    (wrong,) = folder_differences([("/d", "root", "redis", "0700")], survey(files=found))
    assert "folder /d has mode 0750, wanted 0700" == wrong.what


@pytest.mark.parametrize("there", [False, True])
def test_the_lock_can_be_held_by_nobody_else(tmp_path: Path, there: bool) -> None:
    """Only its owner may open the lock's file, also one that was open to all; what the script writes has the usual modes."""
    lock = tmp_path / "lock"
    if there:
        lock.touch(0o644)
    script = locked(f"touch {tmp_path}/written").replace(LOCK, str(lock))
    assert 0 == subprocess.run(["sh", "-c", f"umask 022; {script}"], timeout=30, check=False).returncode
    assert [0o600, 0o644] == [stat.S_IMODE(path.stat().st_mode) for path in (lock, tmp_path / "written")]
