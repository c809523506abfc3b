"""The hosts of an inventory as fixtures. A test that does not apply to a host is not collected for it: nothing is skipped."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from .inventory import read
from .machine import Machine, connections

GROUPS = {"redis_host": "redis", "app_host": "app", "any_host": ""}
_machines: pytest.StashKey[dict[str, Machine]] = pytest.StashKey()
_troubles: pytest.StashKey[dict[str, str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # tests/scanners has added it
        parser.addoption("--inventory", default="inventory", metavar="FILE", help="pyinfra's inventory file (default: inventory)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(**traits): collect the test for hosts with these traits (Machine.traits)")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Hosts are asked only when the command line names this folder or a file of it: a plain `pytest` asks none."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    here = Path(__file__).parent
    return None if any(path == here or here in path.parents for path in named) else True


def machines(config: pytest.Config) -> dict[str, Machine]:
    """Every machine of the inventory, connected to when first asked; those without an answer are in ``troubles``."""
    if _machines not in config.stash:
        path = Path(config.getoption("inventory"))
        try:
            wanted = read(path if path.exists() else path.with_suffix(".py"))
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--inventory {path}: {error}") from error
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        config.stash[_machines] = stack.enter_context(connections(wanted.values()))
        config.stash[_troubles] = troubles = {}
        for name, machine in config.stash[_machines].items():
            try:
                _ = machine.traits
            except (RuntimeError, KeyError) as error:
                troubles[name] = str(error)
    return config.stash[_machines]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, group in GROUPS.items():
        if fixture in metafunc.fixturenames:
            chosen = [m for m in machines(metafunc.config).values() if not group or group in m.wanted.member.groups]
            names = [machine.name for machine in chosen]
            metafunc.parametrize(fixture, names or [None], ids=names or ["none"], indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what does not apply: a group without hosts, a trait the host has not, a host that does not answer."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        (kept if _applies(config, item) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _applies(config: pytest.Config, item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    used = [fixture for fixture in GROUPS if fixture in params]
    if not used:
        return True
    name = params[used[0]]
    if name is None:
        return False
    machine = machines(config)[name]
    if name in config.stash[_troubles]:
        return "trouble" in getattr(item, "fixturenames", ())
    traits = machine.traits
    return all(traits[trait] == value for marker in item.iter_markers("only") for trait, value in marker.kwargs.items())


@pytest.fixture(scope="session")
def redis_host(request: pytest.FixtureRequest) -> Machine:
    """A host of the group ``redis``."""
    return machines(request.config)[request.param]


@pytest.fixture(scope="session")
def app_host(request: pytest.FixtureRequest) -> Machine:
    """A host of the group ``app``."""
    return machines(request.config)[request.param]


@pytest.fixture(scope="session")
def any_host(request: pytest.FixtureRequest) -> Machine:
    """A host of any group, whether it answers or not."""
    return machines(request.config)[request.param]


@pytest.fixture
def trouble(request: pytest.FixtureRequest, any_host: Machine) -> str:
    """Why the host does not answer; empty when it does."""
    return request.config.stash[_troubles].get(any_host.name, "")
