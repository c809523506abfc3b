"""The other faces of the cache: synchronous, and as a dependency of FastAPI."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest

from redkeep.cache.response import AIResponseCache
from redkeep.cache.sync import SyncCache
from redkeep.errors import ConfigurationError
from tests.redis.caches import empty, secure, settings_of
from tests.redis.server import Server


def test_sync(server: Server) -> None:
    """Every call works from plain code and from many threads; closed is closed."""
    empty(server)
    with SyncCache(secure(server)) as cache:
        assert cache.health_check()["status"] == "healthy"
        cache.set("k", [1], 60)
        assert cache.get("k") == [1]
        cache.set_many({f"k{i}": i for i in range(20)})
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda i: cache.get(f"k{i % 20}"), range(200))) == [i % 20 for i in range(200)]
        assert cache.get_many(["k1", "none"]) == {"k1": 1}
        assert cache.delete_many(["k1"]) == 1
        cache.delete("k")
        assert cache.get("k") is None
        cache.cache_response("t", "qa", {}, {"a": 1})
        found = cache.get_cached_response("t", "qa", {})
        assert found is not None
        assert found["a"] == 1
        cache.invalidate_by_operation("qa")
        assert cache.get_cached_response("t", "qa", {}) is None
        cache.invalidate_all()
        assert cache.get_cache_stats()["redis"]["status"] == "connected"
        with pytest.raises(TypeError, match="key"):
            cache.get(5)  # type: ignore[arg-type]
    cache.close()
    with pytest.raises(ConfigurationError):
        cache.get("k")


@pytest.mark.parametrize("installed", [True, False])
def test_its_loop_is_uvloops_where_that_is_installed(installed: bool, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `uvloop` needs no setting; without it asyncio's own loop serves."""
    if not installed:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    with SyncCache(secure(server)) as cache:
        cache.set("loop", "l", 60)
        assert cache.get("loop") == "l"
        assert cache.cache.redis is not None
        assert ("uvloop" if installed else "asyncio") == type(cache._loop).__module__.partition(".")[0]


def test_fastapi(server: Server) -> None:
    """The lifespan opens and closes one cache; routes get it; without a lifespan the error says so."""
    fastapi = pytest.importorskip("fastapi")
    testing = pytest.importorskip("fastapi.testclient")
    from redkeep.cache.dependencies import cache_lifespan, get_cache_service

    empty(server)
    Cache = Annotated[AIResponseCache, fastapi.Depends(get_cache_service)]

    def build(**options: Any) -> Any:
        app = fastapi.FastAPI(**options)

        async def answer(text: str, cache: Cache) -> dict[str, Any]:  # type: ignore[valid-type]
            found: dict[str, Any] | None = await cache.get_cached_response(text, "qa", {})  # type: ignore[attr-defined]
            if found is None:
                await cache.cache_response(text, "qa", {}, {"answer": text.upper()})  # type: ignore[attr-defined]
                return {"answer": text.upper(), "cache_hit": False}
            return found

        answer.__annotations__ = {"text": str, "cache": Cache}
        app.get("/answer")(answer)
        return app

    app = build(lifespan=cache_lifespan(settings_of(server)))
    with testing.TestClient(app) as client:
        assert [client.get("/answer?text=hi").json()["cache_hit"] for _ in range(2)] == [False, True]
        assert app.state.redkeep_cache.redis is not None
    assert not hasattr(app.state, "redkeep_cache")
    with testing.TestClient(build()) as client, pytest.raises(ConfigurationError, match="lifespan"):
        client.get("/answer?text=hi")
