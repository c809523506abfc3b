"""Connections and users that a program makes for itself, by the names of the PRD."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis.exceptions import NoPermissionError

from redkeep import BasicACLManager, SecureRedisAuth, TLSRedisConnection
from redkeep.access.connection import connect
from redkeep.crypto.passwords import generate_password
from redkeep.errors import AuthenticationError, ConfigurationError, PermissionDeniedError, RedkeepError, TLSError
from tests.redis.server import Files, Server


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """What a deploy gives to an app, but for its URL."""
    for name in ("REDIS_CACHE_PASSWORD", "REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE"):
        monkeypatch.setenv(name, str(server.settings[name.lower()]))
    return server


def work(making: Callable[[], SecureRedisAuth | TLSRedisConnection], url: str) -> int:
    """Make a connection and use it for what only the cache's user may do."""

    async def connected() -> int:
        maker = making()
        opening = maker.connect_securely if isinstance(maker, TLSRedisConnection) else maker.create_authenticated_connection
        client = await opening(url)
        try:
            return int(await client.exists("ai_cache:none"))
        finally:
            await client.aclose()

    return asyncio.run(connected())


def test_both_are_verified_and_logged_in(environment: Server) -> None:
    """By the environment's password, or by a given user's; an address without TLS gets it."""
    plain = f"redis://127.0.0.1:{environment.port}/0"
    secure = plain.replace("redis:", "rediss:")
    assert work(SecureRedisAuth, secure) == 0
    assert work(TLSRedisConnection, plain) == 0
    health = environment.passwords["health_check"]
    with pytest.raises(NoPermissionError):  # whose login worked
        work(lambda: SecureRedisAuth(health, username="health_check"), secure)


def test_what_is_not_safe_is_refused(environment: Server, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password, another CA, no password, a weak one, TLS turned off, no CA: each by its own error, and none shows a secret."""
    url = f"rediss://localhost:{environment.port}"
    wrong = generate_password()
    with pytest.raises(AuthenticationError) as refused:
        work(lambda: SecureRedisAuth(wrong), url)
    assert wrong not in str(refused.value)
    with pytest.raises(ConfigurationError, match="password"):
        SecureRedisAuth("short")
    monkeypatch.setenv("REDIS_TLS_ENABLED", "false")
    with pytest.raises(ConfigurationError, match="ENVIRONMENT=development"):
        TLSRedisConnection()
    monkeypatch.setenv("ENVIRONMENT", "development")
    assert TLSRedisConnection().create_ssl_context() is None
    monkeypatch.delenv("ENVIRONMENT")
    monkeypatch.delenv("REDIS_TLS_ENABLED")
    monkeypatch.setenv("REDIS_TLS_CA_FILE", str(files.folder / "foreign-ca.crt"))
    with pytest.raises(TLSError):
        work(TLSRedisConnection, url)
    monkeypatch.delenv("REDIS_TLS_CA_FILE")
    with pytest.raises(ConfigurationError, match="REDIS_TLS_CA_FILE"):
        TLSRedisConnection()
    monkeypatch.delenv("REDIS_CACHE_PASSWORD")
    with pytest.raises(ConfigurationError, match="REDIS_CACHE_PASSWORD"):
        SecureRedisAuth()


def test_users_are_made_whole_and_saved(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """The new password is the only one, too wide rules are gone, the rest of the users stays, and a restart keeps it."""
    server = start()
    new = {name: generate_password() for name in ("cache_service", "health_service")}

    async def made_by(user: str) -> list[tuple[str, ...]]:
        target = server.target(redis_username=user, redis_cache_password=server.passwords[user])
        client = await connect(target)
        try:
            manager = BasicACLManager(client)
            before = await manager.differences()
            return [before, await manager.setup_users(), await manager.differences()]
        finally:
            await client.aclose()

    with pytest.raises(ConfigurationError, match="REDIS_CACHE_PASSWORD is not set"):
        asyncio.run(made_by("operator"))
    monkeypatch.setenv("REDIS_CACHE_PASSWORD", new["cache_service"])
    monkeypatch.setenv("REDIS_HEALTH_PASSWORD", new["health_service"])
    with pytest.raises(PermissionDeniedError, match="log in as the operator"):
        asyncio.run(made_by("monitor"))
    with server.log_in() as operator:
        assert operator.ask(("ACL", "SETUSER", "cache_service", "+@all", "~*")) == ["OK"]
    before, made, after = asyncio.run(made_by("operator"))
    assert {line.partition(":")[0] for line in before} == {"user cache_service", "user health_service"}
    assert (made, after) == (("cache_service", "health_service"), ())
    server.stop()
    server.start_again()
    with server.log_in() as operator:
        assert operator.ask(("ACL", "GETUSER", "default"))[0][1][0] == b"off"  # type: ignore[index]
    with pytest.raises(AuthenticationError):
        asyncio.run(connect(server.target()))

    async def again() -> None:
        await (await connect(server.target(redis_cache_password=new["cache_service"]))).aclose()

    asyncio.run(again())


def test_users_that_a_restart_would_lose_are_not_made(open_server: Server) -> None:
    """A server without an ACL file is left as it is, unless the caller wants just that."""
    secret = {"health_service": generate_password()}

    async def made() -> tuple[str, ...]:
        client = await connect(open_server.target(redis_cache_password=None))
        try:
            with pytest.raises(ConfigurationError, match="no ACL file"):
                await BasicACLManager(client, passwords=secret).setup_users()
            assert await client.acl_getuser("health_service") is None
            try:
                return await BasicACLManager(client, passwords=secret).setup_users(persist=False)
            finally:
                await client.acl_deluser("health_service")
        finally:
            await client.aclose()

    assert asyncio.run(made()) == ("health_service",)


@pytest.mark.parametrize("passwords", [{}, {"root": "x" * 40}, {"default": "x" * 40}, {"cache_service": "short"}])
def test_an_unknown_user_or_a_weak_password_is_refused(passwords: dict[str, str]) -> None:
    """Before anything is asked of the server."""
    with pytest.raises(RedkeepError):
        BasicACLManager(None, passwords=passwords)  # type: ignore[arg-type]
