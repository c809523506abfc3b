"""Texts of others that change the server's unit: which are ours to take away, and how they come back."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deploys.migration.closing import units_back


def test_what_was_kept_comes_back_and_the_folders_above_stay_as_they_are(tmp_path: Path) -> None:
    """The files kept in a closed folder are below the root again, which stays open to everybody, as each folder on the way does."""
    kept, root = tmp_path / "units", tmp_path / "root"
    text = Path("etc/systemd/system/redis-server.service.d/a file.conf")
    (kept / text).parent.mkdir(parents=True)
    (kept / text).write_text("[Service]\n")
    (kept / "etc/systemd/system/off.service").symlink_to("/dev/null")
    (root / "etc/systemd").mkdir(parents=True)
    kept.chmod(0o700)
    (kept / "etc").chmod(0o700)
    subprocess.run(["sh", "-c", f"set -eu; umask 022; {units_back(str(kept), str(root))}"], check=True, timeout=20)
    assert (root / text).read_text() == "[Service]\n"
    assert str((root / "etc/systemd/system/off.service").readlink()) == "/dev/null"
    assert {0o755} == {path.stat().st_mode & 0o777 for path in (root, *(root / text).parents[:4])}
    subprocess.run(["sh", "-c", f"set -eu; {units_back(str(tmp_path / 'nothing'), str(root))}"], check=True, timeout=20)
