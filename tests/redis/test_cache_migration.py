"""AIResponseCacheSecurityMigration: an application's own cache becomes a secure one on a real server, and goes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from redkeep import AIResponseCache, AIResponseCacheSecurityMigration, SecureAIResponseCache
from redkeep.errors import ConfigurationError, PermissionDeniedError, ServerUnavailableError
from redkeep.migration.reencrypt import DataMigration
from tests.redis.caches import plant, settings_of, stored
from tests.redis.old_application import fill, requests
from tests.redis.server import Server, free_port


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_JANITOR_PASSWORD", "REDIS_JANITOR_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def window(start: Callable[..., Server]) -> Server:
    """A server in the middle of a migration: our users and TLS, and the plaintext port with a `default` without a password."""
    server = start(port=str(free_port()))
    with server.log_in() as operator:
        assert operator.ask(("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")) == ["OK"]
    return server


def begun(server: Server, *, port: int = 0, leave_unknown: bool = False, **changes: Any) -> AIResponseCacheSecurityMigration:
    current = AIResponseCache(redis_url=f"redis://127.0.0.1:{port or server.plain_port}/0", default_ttl=77)
    current.operation_ttls["mine"] = 88
    settings = settings_of(server, **{"redis_janitor_password": server.passwords["cache_janitor"], **changes})
    return AIResponseCacheSecurityMigration(current, settings, rate=0, leave_unknown=leave_unknown)


def test_a_cache_in_use_becomes_secure_and_goes_back(window: Server) -> None:
    """All steps in order: entries stay hits and are sealed, statistics and times to live go along; the way back restores the names."""
    asked = list(requests(12))
    fill(window, asked)
    names = set(stored(window))

    async def work() -> None:
        migration = begun(window)
        current = migration.current_cache
        assert await current.get_cached_response(*asked[0][:4])
        cache = await migration.migrate_to_secure_cache()
        assert type(cache) is SecureAIResponseCache
        assert [result.step for result in migration.results] == migration.steps
        assert migration.results[4].evidence["readable"] == 12
        assert not [name for name in stored(window) if "|h:" not in name]
        for each in asked:
            found = await cache.get_cached_response(*each[:4])
            assert found is not None
            assert found["answer"] == each.answer["answer"]
        assert cache.performance_monitor is current.performance_monitor
        assert cache.get_performance_summary()["cache_hits"] >= 13
        assert (cache.default_ttl, cache.operation_ttls["mine"]) == (77, 88)
        counts = await migration.rollback()
        assert counts is not None
        assert (counts.returned, counts.left) == (12, 0)
        assert names == set(stored(window))
        assert await current.get_cached_response(*asked[3][:4])
        assert await migration.rollback() is None
        await current.close()

    asyncio.run(work())


def test_a_step_that_fails_undoes_what_was_done(window: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the migration of the data breaks off half way, the entries get their old names back and the error is raised."""
    asked = list(requests(40))
    fill(window, asked)
    names = set(stored(window))
    commit, calls = DataMigration._commit, 0

    async def broken(self: DataMigration, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            with window.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "-set"))
        if calls == 3:
            with window.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "+set"))
        return await commit(self, *arguments)

    monkeypatch.setattr(DataMigration, "_commit", broken)

    async def work() -> None:
        migration = begun(window)
        with pytest.raises(PermissionDeniedError):
            await migration.migrate_to_secure_cache()
        assert migration.secure_cache is None
        assert len(migration.results) == 4

    asyncio.run(work())
    assert names == set(stored(window))


def test_a_way_back_that_fails_is_gone_again(window: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The migration fails, and so does the way back: the migration's error is raised and says so; the next `rollback()` does it all."""
    asked = list(requests(40))
    fill(window, asked)
    names = set(stored(window))

    async def broken(self: DataMigration) -> Any:
        counts = await run(self)
        if not self._reverse:
            with window.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "-set"))
            raise ConfigurationError("it was all in vain")
        return counts

    run = DataMigration.run
    monkeypatch.setattr(DataMigration, "run", broken)

    async def work() -> None:
        migration = begun(window)
        with pytest.raises(ConfigurationError, match="all in vain") as caught:
            await migration.migrate_to_secure_cache()
        assert "entries were not given back" in caught.value.__notes__[0]
        with pytest.raises(PermissionDeniedError):
            await migration.rollback()
        with window.log_in() as operator:
            operator.ask(("ACL", "SETUSER", "cache_service", "+set"))
        counts = await migration.rollback()
        assert counts is not None
        assert (counts.returned, counts.left) == (40, 0)
        assert migration.secure_cache is None
        await migration.current_cache.close()

    asyncio.run(work())
    assert names == set(stored(window))


def test_a_check_that_fails_unseals_nothing_of_others(window: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers that migrate at start, the second fails before it moves anything: what the first sealed stays sealed. Its own
    `rollback()`, asked for by name, still takes everything back."""
    fill(window, list(requests(12)))
    names = set(stored(window))

    async def work() -> None:
        first, second = begun(window), begun(window)
        cache = await first.migrate_to_secure_cache()
        sealed = set(stored(window))
        assert not sealed & names
        with monkeypatch.context() as broken:
            broken.setattr("redkeep.migration.cache_migration.is_envelope", lambda _: False)
            with pytest.raises(ConfigurationError, match="does not encrypt what it stores"):
                await second.migrate_to_secure_cache()
        assert len(second.results) == 3
        assert second.secure_cache is None
        assert set(stored(window)) == sealed
        for step in second.steps[:3]:
            await second.execute_step(step)
        counts = await second.rollback()
        assert counts is not None
        assert counts.returned == 12
        assert set(stored(window)) == names
        await cache.close()
        await second.current_cache.close()

    asyncio.run(work())


def test_a_wrong_key_is_refused_before_anything_is_opened(window: Server) -> None:
    """What others have sealed with a key that the settings lack is told at the second step, and nothing is moved; it can be left."""
    fill(window, list(requests(4)))
    foreign = "ai_cache:op:qa|h:" + "0" * 32
    plant(window, {foreign: b"\xc1\x01\x01" + b"k" * 60})
    before = stored(window)

    async def work() -> None:
        migration = begun(window)
        with pytest.raises(ConfigurationError, match=r"not in the key ring \(at least 1 with key 6b6b6b6b6b6b6b6b\)"):
            await migration.migrate_to_secure_cache()
        assert len(migration.results) == 1
        assert stored(window) == before
        cache = await begun(window, leave_unknown=True).migrate_to_secure_cache()
        assert [name for name in stored(window) if "|h:" not in name] == []
        await cache.close()
        await migration.current_cache.close()

    asyncio.run(work())
    assert stored(window)[foreign] == before[foreign]


def test_steps_are_refused_with_a_reason(window: Server, start: Callable[..., Server]) -> None:
    """Unknown and premature steps, settings that are not secure or name another server, a dead server: a sentence each."""
    another = start(port=str(free_port()))
    with another.log_in() as operator:
        operator.ask(("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all"))

    async def refused(migration: AIResponseCacheSecurityMigration, kind: type[Exception], says: str, step: str = "") -> None:
        with pytest.raises(kind, match=says):
            await (migration.execute_step(step) if step else migration.migrate_to_secure_cache())
        assert migration.secure_cache is None
        await migration.current_cache.close()

    async def work() -> None:
        migration = begun(window)
        await refused(migration, ConfigurationError, "there is no step 'Do magic'; the steps are: Validate", "Do magic")
        await refused(migration, ConfigurationError, "not open yet; run this step first: Open Secure", migration.steps[4])
        await refused(begun(window, redis_encryption_key=None), ConfigurationError, "REDIS_ENCRYPTION_KEY is not set")
        await refused(begun(window, redis_janitor_password=None), ConfigurationError, "REDIS_JANITOR_PASSWORD is not set")
        await refused(begun(window, port=another.plain_port), ConfigurationError, "name another Redis than the current cache uses")
        for step in ("", migration.steps[1]):
            await refused(begun(window, redis_client="cluster"), ConfigurationError, "a Cluster.*run `redkeep migrate-data`", step)
        await refused(begun(window, port=1), ServerUnavailableError, "cannot reach its Redis")

    asyncio.run(work())
    with pytest.raises(TypeError, match="current_cache must be"):
        AIResponseCacheSecurityMigration(SecureAIResponseCache.from_settings(settings_of(window)))
