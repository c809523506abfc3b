"""SecureAIResponseCache on a hardened server: what it promises of TLS, login, sealing, settings and statistics."""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from redkeep.cache.layer import EncryptedCacheLayer
from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import generate_key
from redkeep.crypto.passwords import generate_password
from redkeep.errors import ConfigurationError, DecryptionError
from redkeep.optimization import SecurityOptimizationConfig
from redkeep.settings import Settings
from tests.redis.caches import ANSWER, CLIENTS, LONG, TEXT, empty, opened, secure, settings_of, stored
from tests.redis.server import Files, Server, free_port


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_round_trip_shows_nothing(server: Server, client: str, compression: str) -> None:
    """Answers and entries come back; in Redis neither text nor value nor question is to be seen, in names or values."""

    async def work() -> None:
        async with opened(server, redis_client=client, redis_compression=compression) as cache:
            for text in (TEXT, LONG):
                await cache.cache_response(text, "summarize", {"style": "hidden"}, {**ANSWER, "more": "x" * 3000}, "a question")
                found = await cache.get_cached_response(text, "summarize", {"style": "hidden"}, "a question")
                assert found is not None
                assert found.items() >= ANSWER.items()
                assert set(found) == {*ANSWER, "more", "cached_at", "cache_hit", "text_length", "compression_used"}
            await cache.set("user:alice", {"token": "hidden"}, 60)
            assert await cache.get("user:alice") == {"token": "hidden"}
            await cache.set_many({f"k{i}": i for i in range(300)})
            assert await cache.get_many([f"k{i}" for i in range(300)]) == {f"k{i}": i for i in range(300)}
            seen = stored(server)
            assert len(seen) == 303
            for name, value in seen.items():
                assert re.fullmatch(r"ai_cache:op:(summarize|_entry)\|h:[0-9a-f]{32}", name)
                assert value[0] == 0xC1
                for word in (b"hidden", b"secret", b"nobody", b"question", b"alice", b"xxxxxxxx"):
                    assert word not in value
            assert sum(cache.error_counts.values()) == 0

    asyncio.run(work())


def test_without_security_it_is_its_parent() -> None:
    """The same attributes, names, markers and signatures."""
    one, other = SecureAIResponseCache(), AIResponseCache()
    assert one._generate_cache_key("t", "qa", {"a": 1}) == other._generate_cache_key("t", "qa", {"a": 1})
    assert one._compress_data({"a": 1}) == other._compress_data({"a": 1}) == b'raw:{"a":1}'
    assert one.encryption is None
    assert one.read_legacy
    for name, method in inspect.getmembers(AIResponseCache, inspect.isfunction):
        if not name.startswith("__"):
            assert list(inspect.signature(method).parameters) == list(inspect.signature(getattr(SecureAIResponseCache, name)).parameters)


def test_constructor_of_the_prd(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis_password, redis_tls_enabled and encryption_key, with the files of the environment."""
    empty(server)
    target = server.target()
    for name in ("ca", "cert", "key"):
        monkeypatch.setenv(f"REDIS_TLS_{name.upper()}_FILE", str(getattr(target, f"{name}_file")))

    async def work() -> None:
        cache = SecureAIResponseCache(
            redis_url=f"redis://127.0.0.1:{server.port}", redis_password=server.passwords["cache_service"], redis_tls_enabled=True,
            encryption_key=Fernet.generate_key().decode(), redis_username="cache_service",
        )
        async with cache:
            await cache.cache_response(text="test text", operation="summarize", options={"max_length": 100}, response=ANSWER)
            found = await cache.get_cached_response(text="test text", operation="summarize", options={"max_length": 100})
            assert found is not None
            assert found["summary"] == ANSWER["summary"]
            assert server.passwords["cache_service"] not in repr(vars(cache))

    asyncio.run(work())


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        ({"redis_password": "short"}, {}, "REDIS_PASSWORD"),  # pragma: allowlist secret - a test of what is refused
        ({"redis_password": "x" * 20}, {}, "REDIS_PASSWORD"),
        ({"encryption_key": "not a key"}, {}, "encryption_key"),
        ({"encryption_key": generate_key()[:-3]}, {}, "encryption_key"),
        ({"redis_password": generate_password(), "redis_url": "redis://far:1"}, {}, "REDIS_TLS_ENABLED"),
        ({}, {"REDIS_TLS_ENABLED": "true"}, "requires TLS"),
        ({"encryption_key": generate_key()}, {"REDIS_URL": "rediss://far:1"}, "requires TLS"),
        ({}, {"REDIS_ENCRYPTION_KEY": generate_key()}, "requires encryption"),
        ({"compression": "gzip", "encryption_key": generate_key()}, {}, "compression"),
    ],
)
def test_refused_configurations(
    arguments: dict[str, Any], environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak, wrong, or less than the environment demands: an error, never a weaker connection."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=named) as caught:
        SecureAIResponseCache(**arguments)
    assert not any(value in str(caught.value) for value in arguments.values() if len(value) > 10 and not value.startswith("redis:"))


def test_tls_without_a_ca_is_not_tls_without_checks(server: Server) -> None:
    """No CA file: connect() is False with the reason; nothing goes unverified."""

    async def work() -> None:
        cache = SecureAIResponseCache(redis_url=f"rediss://127.0.0.1:{server.port}", redis_tls_enabled=True)
        assert await cache.connect() is False
        assert "REDIS_TLS_CA_FILE" in str(cache.last_error)
        assert cache.error_counts["configuration"] == 1

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("changes", "kind", "event"),
    [
        ({"redis_cache_password": generate_password()}, "authentication", "auth_attempt"),
        ({"redis_tls_ca_file": "foreign-ca.crt"}, "tls", "tls_failure"),
        ({"redis_tls_cert_file": None, "redis_tls_key_file": None}, "tls", "tls_failure"),
        ({"redis_url": "nothing there"}, "server_unavailable", None),
    ],
)
def test_failures_are_told_apart(
    server: Server, files: Files, client: str, changes: dict[str, Any], kind: str, event: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused login, a failed handshake and a server that is away: each its own counter, event and log line."""
    if "redis_tls_ca_file" in changes:
        changes = {"redis_tls_ca_file": files.folder / "foreign-ca.crt"}
    if "redis_url" in changes:
        changes = {"redis_url": f"rediss://127.0.0.1:{free_port()}/0"}

    async def work() -> None:
        cache = secure(server, redis_client=client, **changes)
        assert await cache.connect() is False
        for _ in range(50):
            assert await cache.get("k") is None
        others = {name: count for name, count in cache.error_counts.items() if name != kind}
        assert 1 <= cache.error_counts[kind] <= 3
        assert set(others.values()) == {0}
        assert [each.type for each in cache.security_monitor.security_events][:1] == ([event] if event else [])
        assert cache.security_monitor.get_failure_count(1) == (cache.error_counts[kind] if kind == "authentication" else 0)
        assert cache.performance_monitor.cache_misses == 50
        await cache.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(work())
    assert server.passwords["cache_service"] not in caplog.text


def test_a_refused_login_is_not_repeated(server: Server) -> None:
    """A hundred calls with a wrong password are a single attempt in the server's ACL LOG."""

    async def work() -> None:
        cache = secure(server, redis_cache_password=generate_password())
        await asyncio.gather(*(cache.get(f"k{i}") for i in range(100)))
        await cache.close()

    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        asyncio.run(work())
        (log,) = operator.ask(("ACL", "LOG"))
    assert [dict(zip(entry[::2], entry[1::2], strict=True))[b"count"] for entry in log] == [1]  # type: ignore[attr-defined]


def test_normal_work_leaves_no_trace_in_acl_log(server: Server) -> None:
    """Nothing that the cache does by itself is refused: statistics, invalidation, locks, health."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            await cache.get_cached_response(TEXT, "qa", {})
            await cache.get_or_set("k", compute)
            await cache.get_cache_stats()
            await cache.health_check()
            await cache.invalidate_by_operation("qa")
            await cache.invalidate_all()
            await cache.invalidate_pattern("words")
            await cache.delete("k")

    async def compute() -> int:
        return 1

    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        asyncio.run(work())
        assert operator.ask(("ACL", "LOG")) == [[]]


def test_statistics(server: Server) -> None:
    """Without the health user's password INFO is not asked; with it the figures are there. The rest is the parent's shape."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            stats = await cache.get_cache_stats()
            assert stats["redis"] == {
                "status": "connected", "keys": None, "memory_used": None, "memory_used_bytes": None, "connected_clients": None
            }
            assert stats["security"]["tls"]
            assert stats["security"]["encryption"]["total_operations"] >= 1
        async with opened(server, redis_health_password=server.passwords["health_service"]) as cache:
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            stats = await cache.get_cache_stats()
            assert stats["redis"]["keys"] == 3  # the answer and two epochs
            assert stats["redis"]["memory_used_bytes"] > 0

    asyncio.run(work())


def test_password_rotated_while_running(start: Callable[..., Server], tmp_path: Path) -> None:
    """A password kept in a file is read again at the next connect: no restart of the application."""
    own = start()
    file = tmp_path / "password"
    file.write_text(own.passwords["cache_service"])
    file.chmod(0o600)
    lines = {name.upper(): str(value) for name, value in own.settings.items() if name != "redis_cache_password"}
    env = tmp_path / "cache.env"
    env.write_text("".join(f"{name}={value}\n" for name, value in lines.items()) + f"REDIS_CACHE_PASSWORD_FILE={file}\n")
    fresh = generate_password()

    async def work() -> None:
        async with SecureAIResponseCache.from_settings(Settings.load(env)) as cache:
            await cache.set("k", 1)
            with own.log_in() as operator:
                operator.ask(("ACL", "SETUSER", "cache_service", "resetpass", f">{fresh}"), ("CLIENT", "KILL", "USER", "cache_service"))
            file.write_text(fresh)
            await cache.get("k")
            assert await cache.get("k") == 1
            assert cache.error_counts["authentication"] == 0

    asyncio.run(work())


def test_optimization_config_is_heard(server: Server) -> None:
    """Pool size and event buffer are what was asked for."""

    async def work() -> None:
        config = SecurityOptimizationConfig(connection_pool_size=3, security_event_buffer_size=7, connection_max_age=1)
        async with opened(server, options={"optimization": config}, redis_client="redis-py") as cache:
            await asyncio.gather(*(cache.get(f"k{i}") for i in range(200)))
            with server.log_in() as operator:
                (clients,) = operator.ask(("CLIENT", "LIST"))
            assert isinstance(clients, bytes)
            assert clients.count(b"user=cache_service") == 3
            assert cache.security_monitor.max_events == 7
            ids = set(re.findall(rb"id=(\d+) [^\n]*user=cache_service", clients))
            await asyncio.sleep(1.1)
            await cache.get("k")
            with server.log_in() as operator:
                (clients,) = operator.ask(("CLIENT", "LIST"))
            assert not ids >= set(re.findall(rb"id=(\d+) [^\n]*user=cache_service", clients))  # type: ignore[arg-type]

    asyncio.run(work())
    with pytest.raises(ConfigurationError, match="dev_mode_skip_tls"):
        SecureAIResponseCache.from_settings(
            Settings(redis_url="redis://localhost", environment="development", redis_dev_mode=True),
            optimization=SecurityOptimizationConfig(dev_mode_skip_tls=False),
        )


def test_layer() -> None:
    """The PRD's class: its names, its keys, and errors of ours for everything that does not open."""
    key = Fernet.generate_key().decode()
    layer = EncryptedCacheLayer(key)
    assert layer.decrypt_cache_data(layer.encrypt_cache_data(ANSWER)) == ANSWER
    assert layer.decrypt_cache_data(layer.encrypt_cache_data(ANSWER, key="k", ttl=9), key="k") == ANSWER
    for wrong in (layer.encrypt_cache_data(ANSWER, key="k"), b"", b"raw:{}", b"encrypted:" + Fernet(key).encrypt(pickle.dumps(ANSWER))):
        with pytest.raises(DecryptionError):
            layer.decrypt_cache_data(wrong)
    with pytest.raises(DecryptionError):
        EncryptedCacheLayer(generate_key()).decrypt_cache_data(layer.encrypt_cache_data(ANSWER))
    assert EncryptedCacheLayer(key, read_legacy=True).decrypt_cache_data(b"encrypted:" + Fernet(key).encrypt(pickle.dumps(ANSWER))) == ANSWER
    rotated = EncryptedCacheLayer(f"{generate_key()},{key}")
    assert rotated.decrypt_cache_data(layer.encrypt_cache_data(ANSWER)) == ANSWER
    assert key not in repr(layer)
    salt = bytes(range(16))
    first = EncryptedCacheLayer(passphrase="several random words here", salt=salt)
    assert EncryptedCacheLayer(passphrase="several random words here", salt=salt).decrypt_cache_data(first.encrypt_cache_data(1)) == 1
    words = {"passphrase": "several random words here"}
    for arguments in ({}, words, {"passphrase": "short", "salt": salt}, {"encryption_key": key, **words}):
        with pytest.raises(ConfigurationError):
            EncryptedCacheLayer(**arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data"):
        layer.decrypt_cache_data("text")  # type: ignore[arg-type]


def test_one_line_change(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application of the old class changes the line that makes the cache, and no other."""
    empty(server)
    for name, value in server.settings.items():
        monkeypatch.setenv(name.upper(), str(value))

    async def application(cache: AIResponseCache) -> Any:
        await cache.connect()
        await cache.cache_response("t", "summarize", {"n": 1}, ANSWER)
        found = await cache.get_cached_response("t", "summarize", {"n": 1})
        await cache.invalidate_pattern("summarize", operation_context="test")
        await cache.get_cache_stats()
        await cache.close()
        return found

    found = asyncio.run(application(SecureAIResponseCache.from_settings()))
    assert found is not None
    assert found["summary"] == ANSWER["summary"]
    assert settings_of(server).target.tls
