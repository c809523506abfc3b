"""Packages are installed without their service ever starting, and what forbids it is gone afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys.difference import locked
from deploys.facts.survey import LOCK, POLICY, Question, command, parse
from deploys.stages import machine, removal
from tests.unit.wanted import FakeSite, bundle, survey

BARE = survey(host={"systemd": "no", "policy": "no"})


def program(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def installed(folder: Path) -> subprocess.CompletedProcess[str]:
    """The installation on a host without systemd, below a folder, with the programs that were put there."""
    (missing,) = (each for each in machine.packages_missing(FakeSite(bundle()), BARE) if "packages are missing" in each.what)  # type: ignore[arg-type]
    script = locked(missing.script).replace(LOCK, f"{folder}/lock").replace(POLICY, f"{folder}/policy").replace(machine.STATE, str(folder))
    path = {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-c", script], env=os.environ | path, capture_output=True, text=True, timeout=30, check=False)


def test_a_signal_ends_an_installation_under_its_policy(tmp_path: Path) -> None:
    """What asks whether services may start is told no to the end, and nothing more is installed once a signal came."""
    program(tmp_path, "apt-get", f'sh {tmp_path}/policy; echo "apt-get $?" >> {tmp_path}/told; kill -TERM $PPID; exit 1')
    program(tmp_path, "dpkg", f"sh {tmp_path}/policy; echo \"dpkg $?\" >> {tmp_path}/told")
    program(tmp_path, "dpkg-query", "true")
    done = installed(tmp_path)
    assert ("apt-get 101\n", False) == ((tmp_path / "told").read_text(), (tmp_path / "policy").exists())
    assert 0 != done.returncode


def test_a_policy_that_a_killed_installation_left_goes(tmp_path: Path) -> None:
    """It is told from another's by its own words; a deploy, a destroy and a status name it."""
    for text, word in ((None, "no"), ("#!/bin/sh\nexit 101\n", "yes"), (f"#!/bin/sh\n# {machine.POLICY_MARK}\nexit 101\n", "ours")):
        if text is not None:
            (tmp_path / "policy").write_text(text)
        asked = command(Question()).replace(POLICY, str(tmp_path / "policy"))
        found = parse(subprocess.run(["sh", "-c", asked], capture_output=True, text=True, timeout=30, check=True).stdout.splitlines())
        assert word == found.host["policy"]


@pytest.mark.parametrize(("word", "named"), [("no", 0), ("yes", 0), ("ours", 1)])
def test_only_our_own_policy_is_taken_away(word: str, named: int) -> None:
    """Another's policy, as images for containers have it, stays."""
    site, found = FakeSite(bundle()), survey(host={"systemd": "no", "policy": word})
    for concern in (machine.packages_missing, removal.files_gone):
        assert named == sum(POLICY in each.what for each in concern(site, found))  # type: ignore[arg-type]
