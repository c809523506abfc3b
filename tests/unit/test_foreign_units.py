"""Texts of others that change the server's unit: which are ours to take away, and how they come back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploys.engine import ENGINES
from deploys.facts.survey import UnitState
from deploys.migration import closing
from deploys.migration.closing import units_aside, units_back
from deploys.migration.passage import Passage
from deploys.migration.window import Window
from deploys.stages import server
from redkeep.migration.stages import LEVELS, STAGES
from tests.unit.wanted import FakeSite, bundle, survey, there

ENGINE = ENGINES["redis"]
OF_ALL = "/etc/systemd/system/service.d/10-limits.conf"
OF_SOME = "/etc/systemd/system/redis-.service.d/notify.conf"
OF_A_GENERATOR = "/run/systemd/system/service.d/zzz-lxc-service.conf"
OF_THE_UNIT = "/etc/systemd/system/redis-server.service.d/override.conf"


@pytest.mark.parametrize("path", [OF_ALL, OF_SOME, OF_A_GENERATOR])
def test_a_text_that_other_services_have_too_is_left_alone(path: str) -> None:
    """A drop-in for every service of the host, or for all of a prefix, is not removed and is no drift; one of the unit alone is."""
    site = FakeSite(bundle())
    unit = UnitState("loaded", "active", "enabled", fragment="/lib/systemd/system/redis-server.service", drop_ins=(path, ENGINE.drop_in))
    assert [] == list(server.foreign_units(site, survey(units={ENGINE.unit: unit})))  # type: ignore[arg-type]
    both = UnitState("loaded", "active", "enabled", fragment=unit.fragment, drop_ins=(OF_THE_UNIT, path))
    found = survey(units={ENGINE.unit: both})
    (deploy,) = server.foreign_units(site, found)  # type: ignore[arg-type]
    passage = Passage(site, "migrate", STAGES[-1], LEVELS["close"], Window())  # type: ignore[arg-type]
    close = next(each for each in closing.sandbox(passage, found) if "is changed by" in each.what)
    for difference in (deploy, close):
        assert (True, False) == (OF_THE_UNIT in difference.script, path in difference.script)


def test_what_is_put_aside_goes_from_its_place(tmp_path: Path) -> None:
    """From whichever folder: each file is kept below its whole path, and once more when that is said again after it was put back."""
    text = tmp_path / "etc/redis-server.service.d/a file.conf"
    text.parent.mkdir(parents=True)
    for _ in range(2):
        text.write_text("[Service]\n")
        script = units_aside([str(text)], str(tmp_path / "units"))
        subprocess.run(["sh", "-c", f"set -eu\n{script}"], check=True, cwd=tmp_path, timeout=20)
        assert (["redis-server.service.d"], []) == ([each.name for each in (tmp_path / "etc").iterdir()], list(text.parent.iterdir()))
        assert "[Service]\n" == Path(f"{tmp_path}/units{text}").read_text()


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
    assert not kept.exists()


def test_what_a_close_that_died_put_aside_comes_back() -> None:
    """Also when our own drop-in was not written yet, or is gone already; and before it goes."""
    passage = Passage(FakeSite(bundle()), "rollback", STAGES[-1], LEVELS["access_control"], Window())  # type: ignore[arg-type]
    for files in ({closing.KEPT_UNITS: there("directory")}, {closing.KEPT_UNITS: there("directory"), ENGINE.drop_in: there()}):
        (found,) = closing.files_before(passage, survey(files=files))
        assert 0 <= found.script.index(units_back(closing.KEPT_UNITS)) < found.script.index(f"rm -f {ENGINE.drop_in}")
    assert [] == list(closing.files_before(passage, survey()))
