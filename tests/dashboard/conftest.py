"""A browser, a dashboard, an API and a Redis, all real, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.api.service import Api, environment, serving
from tests.dashboard.browser import Page, chromium, showing
from tests.dashboard.stack import dashboard_environment, secured_redis
from tests.redis.server import Server


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    """One whose posture can be green."""
    with secured_redis() as running:
        yield running


@pytest.fixture(scope="module")
def api(redis: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """It probes every two seconds, so that the page changes soon."""
    folder = tmp_path_factory.mktemp("api")
    with serving(environment(redis, redkeep_api_rate_limit=100_000), folder, "--interval", "2") as running:
        yield running


@pytest.fixture(scope="session")
def driver() -> Iterator[Chrome]:
    """One browser for all."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def page(api: Api, driver: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The dashboard of the API."""
    folder = tmp_path_factory.mktemp("dashboard")
    with showing(dashboard_environment(api, folder), folder) as url:
        yield Page(driver, url, api)
