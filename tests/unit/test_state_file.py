"""The monitoring's state on disk: whole or as before, private, and never taken from somebody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from redkeep.errors import ConfigurationError
from redkeep.monitoring.state_file import read_state, write_state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Mode 0600, nothing else left in the folder; none at all is None."""
    path = tmp_path / "state.json"
    assert read_state(path) is None
    for number in range(3):
        write_state(path, {"n": number, "text": "ü\u2028"})
    found = read_state(path)
    assert found
    assert (2, "ü\u2028") == (found["n"], found["text"])
    assert (0o600, ["state.json"]) == (stat.S_IMODE(path.stat().st_mode), [each.name for each in tmp_path.iterdir()])


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "damaged"), (b'{"version": 2', "damaged"), (b"[2]", "damaged"), (b'{"version": 1}', "another version"), (b"\xff", "damaged"),
     (b'{"version": 2, "x": Infinity}', "damaged"), (b'{"version": 2, "x": 1e999}', "damaged"),
     (b'{"version": 2, "x": ' + b"[" * 200_000, "damaged"), (b'{"version": 2, "x": ' + b"9" * 21 + b"}", "damaged")],
)
def test_a_damaged_file(tmp_path: Path, content: bytes, words: str) -> None:
    """Cut short, another version, no JSON, numbers that are none, endless depth: one sentence, and counting begins anew."""
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        read_state(path)


def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    """Writable by others, a link, a pipe, a folder: not taken, and a pipe does not hang the start."""
    path = tmp_path / "state.json"
    write_state(path, {})
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="is writable by others"):
        read_state(path)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    os.mkfifo(pipe)
    for odd, words in ((link, "cannot be read"), (pipe, "not a state file of Redkeep"), (tmp_path, "not a state file of Redkeep")):
        with pytest.raises(ConfigurationError, match=words):
            read_state(odd)


def test_a_folder_that_refuses(tmp_path: Path) -> None:
    """The old file stays, no half of a new one is left, and the error names the file."""
    path = tmp_path / "folder" / "state.json"
    with pytest.raises(ConfigurationError, match=r"state\.json cannot be written: No such file"):
        write_state(path, {})
    target = tmp_path / "taken"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_state(target, {})
    assert ["taken"] == [each.name for each in tmp_path.iterdir()]
