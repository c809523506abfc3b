"""Fixtures that every tier may ask for; nothing starts before it is asked for."""

import asyncio

import pytest

pytest_plugins = ["tests.lab.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long form of each test")
    parser.addoption("--uvloop", action="store_true", help="run on uvloop's event loops instead of asyncio's")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: belongs to the long form alone")
    if config.getoption("--uvloop"):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only the long form has is not part of the short one."""
    if not config.getoption("--soak"):
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long form was asked for."""
    return bool(request.config.getoption("--soak"))
