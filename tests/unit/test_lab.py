"""The lab's pure parts: recipe, tags, keys' archive, inventory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Host, Spec, render_inventory
from tests.lab.access import Access
from tests.lab.image import SUITES, recipe


def _host(name: str, address: str) -> Host:
    return Host(Spec(name), lab_id="t", address=address, access=Access(Path("/lab")))


def _read(text: str) -> dict[str, list[tuple[str, dict[str, object]]]]:
    names: dict[str, list[tuple[str, dict[str, object]]]] = {}
    exec(compile(text, "inventory.py", "exec"), {}, names)  # noqa: S102 - pyinfra reads an inventory this way
    return names


def test_equal_recipes_have_equal_tags() -> None:
    """The tag depends on the recipe alone."""
    assert recipe("trixie").tag == recipe("trixie").tag


@pytest.mark.parametrize("field", ["packages", "archives", "masked"])
def test_any_change_of_a_recipe_changes_the_tag(field: str) -> None:
    """One more package, archive or masked unit gives another tag, so the image is built again."""
    plain = recipe("bookworm")
    change: dict[str, Any] = {field: (*getattr(plain, field), "extra")}
    assert plain.tag != dataclasses.replace(plain, **change).tag


def test_tags_name_the_suite() -> None:
    """Each suite has a tag of its own that says which."""
    assert [f"redkeep-lab:{suite}" for suite in SUITES] == [recipe(suite).tag.rpartition("-")[0] for suite in SUITES]


def test_an_unknown_suite_is_refused() -> None:
    """The error names the suites there are."""
    with pytest.raises(ValueError, match="bookworm, trixie"):
        recipe("sid")


@pytest.mark.parametrize("suite", SUITES)
def test_what_a_deploy_installs_is_not_in_the_image(suite: str) -> None:
    """Servers, firewall, venv and TLS tools are fetched, never installed."""
    assert not {"redis-server", "valkey-server", "nftables", "python3-venv", "openssl", "ca-certificates"} & set(
        recipe(suite).packages
    )


def test_security_and_updates_are_among_the_sources() -> None:
    """A host gets security fixes as a real one does."""
    script = recipe("bookworm").script()
    assert "bookworm-security main" in script
    assert "bookworm-updates main" in script


def test_an_inventory_has_a_list_a_group() -> None:
    """pyinfra reads the rendered text as groups of (name, data)."""
    one, two = _host("r1", "10.0.0.10"), _host("a1", "10.0.0.11")
    groups = _read(render_inventory({"redis": [one], "app": [two]}))
    assert ["redis", "app"] == list(groups)
    assert [("r1", "10.0.0.10")] == [(name, data["ssh_hostname"]) for name, data in groups["redis"]]
    assert "yes" == groups["app"][0][1]["ssh_strict_host_key_checking"]


def test_inventory_data_of_the_caller_wins() -> None:
    """Host data given by name is added, and replaces the lab's own."""
    text = render_inventory({"redis": [_host("r1", "10.0.0.10")]}, data={"r1": {"ssh_port": 2222, "role": "replica"}})
    data = _read(text)["redis"][0][1]
    assert (2222, "replica") == (data["ssh_port"], data["role"])


def test_the_operator_works_through_sudo() -> None:
    """An inventory for operator asks pyinfra for sudo; one for root does not."""
    hosts = {"redis": [_host("r1", "10.0.0.10")]}
    assert True is _read(render_inventory(hosts, user="operator"))["redis"][0][1]["_sudo"]
    assert "_sudo" not in _read(render_inventory(hosts))["redis"][0][1]


def test_data_for_no_host_is_refused() -> None:
    """A typing error in a host's name does not vanish."""
    with pytest.raises(ValueError, match="r2"):
        render_inventory({"redis": [_host("r1", "10.0.0.10")]}, data={"r2": {}})


@pytest.mark.parametrize("group", ["_redis", "redis hosts", "1st"])
def test_a_group_pyinfra_would_not_read_is_refused(group: str) -> None:
    """Group names are public Python identifiers."""
    with pytest.raises(ValueError, match="group"):
        render_inventory({group: []})


def test_a_specification_survives_its_label() -> None:
    """What a label stores gives the same specification again."""
    spec = Spec("p", "trixie", init=False, docker=True, apt_lists=False)
    assert spec == Spec(**json.loads(spec.label()))


@pytest.mark.parametrize("name", ["", "R1", "a b", "-a", "a-", "a;b", "a" * 41])
def test_a_name_that_is_no_host_name_is_refused(name: str) -> None:
    """Host names reach shells, labels and ssh_config: only letters, digits and hyphens."""
    with pytest.raises(ValueError, match="host name"):
        Spec(name)
