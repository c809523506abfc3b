"""Packages: installed without their service ever starting, and removed without taking along what is somebody else's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys.difference import locked
from deploys.facts.survey import LOCK, POLICY, Question, command, parse
from deploys.stages import machine, removal
from tests.unit.wanted import FakeSite, bundle, survey, there

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


def removed(folder: Path) -> list[str]:
    """What a removal purges of ours (nftables, with libnftables1), an old kernel beside it, below a folder of programs."""
    program(folder, "dpkg-query", "echo ' installed '")
    program(folder, "apt-mark", f'cat > /dev/null; touch "{folder}/marked"')
    needless = "Remv linux-image-old\\n$([ ! -e %s/marked ] || printf 'Remv nftables\\\\nRemv libnftables1\\\\n')\\nRemv old-one"
    program(folder, "apt-get", f'case "$*" in *purge*) echo "$*" >> {folder}/purged;; *) printf "{needless % folder}\\n";; esac')
    script = removal.PACKAGES_SCRIPT.replace(machine.STATE, str(folder))
    path = {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", f"set -eu\n{script}"], env=os.environ | path, timeout=30, check=True)
    return (folder / "purged").read_text().rpartition(" purge ")[2].split()


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a killed one"])
def test_a_removal_leaves_what_is_left_over_from_others(tmp_path: Path, again: bool) -> None:
    """A kernel that an upgrade replaced came after us and is needed by nothing: it stays for its owner's own autoremove."""
    (tmp_path / "packages").write_text("nftables\n")
    (tmp_path / "packages-before").write_text("apt\nold-one\n")
    if again:
        removed(tmp_path)
    assert ["libnftables1", "nftables"] == removed(tmp_path)


def test_what_is_left_over_is_noted_before_the_server_goes() -> None:
    """What only the server needed is needless from then on, and ours."""
    found = survey(packages={"redis-server": "5:7.0.15"}, files={machine.MANAGED: there()})
    (gone,) = removal.engine_gone(FakeSite(bundle()), found)  # type: ignore[arg-type]
    assert 0 < gone.script.index(removal.NOTE_LEFT_OVER) < gone.script.index("purge redis-server")
