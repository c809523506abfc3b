"""The Redis hosts of an inventory, to be scanned: `pytest tests/scanners --inventory FILE`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.inventory import read
from tests.hosts.machine import Machine, connections


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # tests/hosts has added it
        parser.addoption("--inventory", default="inventory", metavar="FILE", help="pyinfra's inventory file (default: inventory)")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Hosts are scanned only when the command line names this folder or a file of it."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    here = Path(__file__).parent
    return None if any(path == here or here in path.parents for path in named) else True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scanned" in metafunc.fixturenames:
        path = Path(metafunc.config.getoption("inventory"))
        wanted = read(path if path.exists() else path.with_suffix(".py"))
        names = [name for name, host in wanted.items() if "redis" in host.member.groups]
        metafunc.parametrize("scanned", [wanted[name] for name in names], ids=names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def scanned(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A host of the group ``redis``."""
    with connections([request.param]) as machines:
        yield machines[request.param.member.name]
