"""What deploy code learns of the command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from deploys.invocation import Invocation, invocation
from tests.unit.wanted import ROOT


def called(**params: object) -> Invocation:
    """The invocation as config.py sees it under these parameters of pyinfra."""
    with click.Context(click.Command("pyinfra")) as context:
        context.params = params
        return invocation.__wrapped__()


def test_without_a_command_line_nothing_is_known() -> None:
    """Used from Python, the environment must be named by its knob."""
    assert Invocation(inventory="", dry=False) == invocation.__wrapped__()


@pytest.mark.parametrize("given", ["@local", "redis-1,redis-2", "", "absent.py"])
def test_an_inventory_that_is_no_file_has_no_name(given: str) -> None:
    """Host names on the command line give the environment no name."""
    assert called(inventory=given).inventory == ""


def test_a_file_gives_its_name(tmp_path: Path) -> None:
    """inventories/single.py is the environment "single"."""
    (tmp_path / "single.py").touch()
    assert called(inventory=str(tmp_path / "single.py")).inventory == "single"


def test_a_link_gives_the_name_of_its_target(tmp_path: Path) -> None:
    """The secrets follow the inventory in use, not the link that chooses it."""
    (tmp_path / "local.py").touch()
    (tmp_path / "inventory").symlink_to("local.py")
    assert called(inventory=str(tmp_path / "inventory")).inventory == "local"


@pytest.mark.parametrize(("given", "expected"), [({"dry": True}, True), ({"dry": False}, False), ({}, False)])
def test_a_dry_run_is_known(given: dict[str, bool], expected: bool) -> None:
    """--dry keeps new secrets from being written."""
    assert expected == called(**given).dry


@pytest.mark.parametrize(("given", "expected"), [({"serial": True}, True), ({"no_wait": True}, True), ({"serial": False}, False), ({}, False)])
def test_hosts_that_do_not_wait_for_each_other_are_known(given: dict[str, bool], expected: bool) -> None:
    """A rotation takes each step on all hosts before the next."""
    assert expected == called(**given).apart


@pytest.mark.parametrize("verb", ["secure_redis", "status", "migrate", "rollback", "rotate", "backup", "restore", "destroy"])
def test_every_verb_is_a_target_of_make(verb: str) -> None:
    """It runs the verb's file by the project's own pyinfra, on the inventory asked for, with what is given in ARGS."""
    target = {"secure_redis": "deploy"}.get(verb, verb)
    words = ["make", "--dry-run", "--no-print-directory", target, "INVENTORY=config.py", "ARGS=--data stage=tls"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f".venv/bin/pyinfra -y config.py deploys/{verb}.py ")
    assert last.endswith(" --data stage=tls")
    words[-1] += " --dry"
    dry = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert dry.startswith(f".venv/bin/pyinfra config.py deploys/{verb}.py "), "with -y, pyinfra shows nothing of a dry run"
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"\n{target} " in f"\n{shown.stdout}"
