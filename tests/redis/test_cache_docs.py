"""docs/cache.md and docs/connections.md: their blocks run as they stand, and the table is the truth."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from typing import Any

import pytest

from redkeep.settings import Settings
from tests.redis.caches import empty
from tests.redis.server import Server
from tests.unit.wanted import ROOT

TEXT = (ROOT / "docs" / "cache.md").read_text()
CONNECTIONS = (ROOT / "docs" / "connections.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT + CONNECTIONS, re.DOTALL | re.MULTILINE)


def test_blocks_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one namespace, against a hardened server; the FastAPI application answers."""
    testing = pytest.importorskip("fastapi.testclient")
    empty(server)
    for name, value in server.settings.items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.setenv("OPERATOR_PASSWORD", server.passwords["operator"])
    monkeypatch.setenv("REDIS_HEALTH_PASSWORD", server.passwords["health_service"])
    names: dict[str, Any] = {}

    async def work() -> None:
        for block in BLOCKS:
            done = eval(compile(block, "docs/cache.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), names)
            if inspect.isawaitable(done):
                await done

    asyncio.run(work())
    assert len(BLOCKS) >= 10
    with testing.TestClient(names["app"]) as client:
        assert 0.0 == client.get("/hits").json()


def test_the_table_is_the_truth() -> None:
    """Each variable is a setting, with the default that the table names."""
    rows = re.findall(r"^\| `(REDIS_\w+)` \| (?:`([^`]*)`)?", TEXT, re.MULTILINE)
    assert len(rows) == 10
    for variable, default in rows:
        known = Settings.model_fields[variable.lower()].default
        assert default == ({False: "false", None: "", "": ""}.get(known, known)), variable
    assert TEXT.count("\n") < 135
