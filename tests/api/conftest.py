"""The API as a process of its own, in front of a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.service import Api, environment, serving
from tests.redis.conftest import files, server, start
from tests.redis.server import Server

__all__ = ["files", "server", "start"]


@pytest.fixture(scope="session")
def api(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for the session, with a limit that no test reaches by accident."""
    folder = tmp_path_factory.mktemp("api")
    with serving(environment(server, redkeep_api_rate_limit=100_000), folder) as running:
        yield running
