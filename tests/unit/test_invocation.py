"""What deploy code learns of the command line."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from deploys.invocation import Invocation, invocation


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
