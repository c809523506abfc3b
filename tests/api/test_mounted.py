"""The routes in somebody else's application, which has a cache of its own and documents of its own."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from redkeep.api import redkeep_router
from redkeep.cache.dependencies import cache_lifespan
from redkeep.errors import ConfigurationError
from tests.api.service import environment
from tests.redis.server import Server
from tests.unit.wanted import ROOT

KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of an application."""
    for name, value in environment(server, redkeep_api_key=KEY).items():
        monkeypatch.setenv(name, value)


def test_one_line_mounts_them() -> None:
    """They answer beside the application's own, behind the key, and open a cache themselves."""
    app = FastAPI()
    app.include_router(redkeep_router())

    @app.get("/mine")
    async def mine() -> str:
        return "mine"

    with TestClient(app) as client:
        assert "mine" == client.get("/mine").json()
        assert 401 == client.get("/internal/cache/status").status_code
        assert 200 == client.get("/internal/cache/status", headers={"X-API-Key": KEY}).status_code
        assert 422 == client.get("/internal/monitoring/events?limit=0", headers={"X-API-Key": KEY}).status_code
        assert 200 == client.get("/docs").status_code
    assert not hasattr(app.state, "redkeep_cache")


def test_the_applications_own_cache_is_told_of() -> None:
    """With `cache_lifespan` there is one cache, and its security events are the monitoring's."""
    app = FastAPI(lifespan=cache_lifespan())
    app.include_router(redkeep_router())
    with TestClient(app) as client:
        cache = app.state.redkeep_cache
        cache.security_monitor.record("decryption_failure", severity="error", key="k")
        found = client.get("/internal/monitoring/events?kind=decryption_failure", headers={"X-API-Key": KEY}).json()["events"]
        assert "k" == found[0]["details"]["key"]


def test_the_documentations_block_runs() -> None:
    """As it stands, and its application answers."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, FastAPI] = {}
    exec(compile(block, "docs/api.md", "exec"), names)
    with TestClient(names["app"]) as client:
        assert 200 == client.get("/monitoring/security-status", headers={"X-API-Key": KEY}).status_code


def test_without_a_key_the_application_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten variable is no open door."""
    monkeypatch.delenv("REDKEEP_API_KEY")
    app = FastAPI()
    app.include_router(redkeep_router())
    with pytest.raises(ConfigurationError, match="REDKEEP_API_KEY is not set"), TestClient(app):
        pass


def test_without_its_lifespan_nothing_is_open() -> None:
    """A router included after the start has no gate, and lets nobody through."""
    app = FastAPI()
    with TestClient(app, raise_server_exceptions=False) as client:
        app.include_router(redkeep_router())
        assert 500 == client.get("/internal/cache/status", headers={"X-API-Key": KEY}).status_code
