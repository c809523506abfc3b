"""SecureAIResponseCache on a hardened server: what it promises of TLS, login, sealing, names, rotation and invalidation."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from redkeep.cache.epochs import REFRESH_SECONDS
from redkeep.cache.layer import EncryptedCacheLayer
from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import generate_key
from redkeep.crypto.passwords import generate_password
from redkeep.errors import ConfigurationError, DecryptionError
from redkeep.optimization import SecurityOptimizationConfig
from redkeep.settings import Settings
from tests.redis.caches import CLIENTS, empty, opened, plant, secure, settings_of, stored
from tests.redis.server import Files, Server, free_port

ANSWER = {"summary": "the secret of the house", "confidence": 0.95}
TEXT = "what nobody may read"
LONG = "a long text that nobody may read " * 40


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own variables reach no test."""
    for name in ("REDIS_URL", "REDIS_TLS_ENABLED", "REDIS_ENCRYPTION_KEY", "REDIS_TLS_CA_FILE", "ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


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
        ({}, {"REDIS_TLS_ENABLED": "true"}, "demands TLS"),
        ({"encryption_key": generate_key()}, {"REDIS_URL": "rediss://far:1"}, "demands TLS"),
        ({}, {"REDIS_ENCRYPTION_KEY": generate_key()}, "demands encryption"),
        ({"compression": "gzip", "encryption_key": generate_key()}, {}, "compression"),
    ],
)
def test_refused_configurations(
    arguments: dict[str, Any], environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak, wrong, or less than the environment demands: an error, never a weaker connection (mistakes 26 and 27)."""
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
    """A refused login, a failed handshake and a server that is away: each its own counter, event and log line (mistake 24)."""
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


@pytest.mark.parametrize("client", CLIENTS)
def test_invalidation_by_epoch(server: Server, client: str) -> None:
    """An operation, or all, at once, without a scan; other operations stay; another process follows within its second."""

    async def work() -> None:
        async with opened(server, redis_client=client) as cache:
            other = secure(server, redis_client=client)
            for operation in ("qa", "qa2", "summarize"):
                await cache.cache_response(TEXT, operation, {}, ANSWER)
            await cache.set("k", 1)
            assert await other.get_cached_response(TEXT, "qa", {}) is not None
            assert len(cache.memory_cache) == 3
            await cache.invalidate_by_operation("qa")
            assert len(cache.memory_cache) == 2
            assert await cache.get_cached_response(TEXT, "qa", {}) is None
            assert await cache.get_cached_response(TEXT, "qa2", {}) is not None
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await other.get_cached_response(TEXT, "qa", {}) is None
            assert await other.get_cached_response(TEXT, "qa2", {}) is not None
            await cache.invalidate_all()
            assert [await cache.get_cached_response(TEXT, each, {}) for each in ("qa2", "summarize")] == [None, None]
            assert await cache.get("k") is None
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await other.get("k") is None
            assert cache.performance_monitor.total_invalidations == 2
            await other.close()

    asyncio.run(work())


def test_lost_epochs_bring_nothing_back(server: Server) -> None:
    """When the words are evicted, or planted nonsense, the cache is cold: what was invalid does not come back."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            await cache.invalidate_all()
            for change in (("DEL",), ("SET", "nonsense"), ("SET", "0" * 15)):
                await cache.cache_response(TEXT, "qa", {}, ANSWER)
                with server.log_in() as operator:
                    (names,) = operator.ask(("KEYS", "ai_cache:epoch:*"))
                    for name in names:  # type: ignore[attr-defined]
                        operator.ask((change[0], name, *change[1:]))
                await asyncio.sleep(REFRESH_SECONDS + 0.05)
                assert await cache.get_cached_response(TEXT, "qa", {}) is None

    asyncio.run(work())


def test_an_epoch_played_back_brings_nothing_back(server: Server) -> None:
    """A word from before an invalidation, played back or come with a lagging replica, is refused by whoever saw it replaced; a
    word that was never one gives misses; a lost word does not make old readable names count again."""

    async def work() -> None:
        async with opened(server, redis_read_legacy=True) as cache:
            other = secure(server)
            await cache.cache_response(TEXT, "qa", {}, ANSWER)
            assert await other.get_cached_response(TEXT, "qa", {}) is not None
            with server.log_in() as operator:
                (names,) = operator.ask(("KEYS", "ai_cache:epoch:*"))
                words = {name: operator.ask(("GET", name))[0] for name in names}  # type: ignore[attr-defined]
                await cache.invalidate_by_operation("qa")
                await asyncio.sleep(REFRESH_SECONDS + 0.05)
                assert await other.get_cached_response(TEXT, "qa", {}) is None
                for replayed in (words, dict.fromkeys(words, b"0123456789abcdef")):
                    for name, word in replayed.items():
                        assert operator.ask(("SET", name, word)) == ["OK"]
                    await asyncio.sleep(REFRESH_SECONDS + 0.05)
                    for each in (cache, other):
                        assert await each.get_cached_response(TEXT, "qa", {}) is None
                plant(server, {cache.key_generator.generate_cache_key(TEXT, "qa", {}): json.dumps(ANSWER).encode()})
                await cache.invalidate_by_operation("qa")
                operator.ask(("DEL", *words))  # type: ignore[arg-type]
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await cache.get_cached_response(TEXT, "qa", {}) is None
            await other.close()

    asyncio.run(work())


def test_value_computed_before_an_invalidation(server: Server) -> None:
    """It was stale when it came: it is not served afterwards."""

    async def work() -> None:
        async with opened(server) as cache:
            started, go_on = asyncio.Event(), asyncio.Event()

            async def compute() -> str:
                started.set()
                await go_on.wait()
                return "stale"

            await cache.get("k")
            name = cache._entry_name("k")
            task = asyncio.create_task(cache.get_or_set("k", compute))
            await started.wait()
            await cache.invalidate_all()
            assert cache._entry_name("k") != name
            go_on.set()
            assert await task == "stale"
            assert await cache.get("k") is None

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_rotation(server: Server, client: str) -> None:
    """add, promote, retire, in processes that disagree for a while: every value stays readable, none is replaced by an old one."""
    old, new = generate_key(), generate_key()

    def of(*keys: str) -> SecureAIResponseCache:
        changes = {"redis_encryption_key": None, "redis_encryption_keys": ",".join(keys)}
        return secure(server, redis_client=client, options={"memory_cache_size": 0}, **changes)

    async def work() -> None:
        empty(server)
        before, added, promoted, retired = of(old), of(old, new), of(new, old), of(new)
        async with before, added, promoted, retired:
            await before.set("k", "first")
            await before.cache_response(TEXT, "qa", {}, ANSWER)
            assert await added.get("k") == "first"
            assert await promoted.get("k") == "first"  # and re-sealed under the new key
            assert await promoted.get_cached_response(TEXT, "qa", {}) is not None
            assert await retired.get("k") == "first"
            assert await retired.get_cached_response(TEXT, "qa", {}) is not None
            await promoted.set("k", "second")
            assert [await each.get("k") for each in (added, promoted, retired)] == ["second"] * 3
            await added.set("k", "third")
            assert [await each.get("k") for each in (added, promoted)] == ["third"] * 2
            assert await promoted.get_many(["k"]) == {"k": "third"}
            await promoted.delete("k")
            assert [await each.get("k") for each in (before, added, promoted)] == [None] * 3
            await added.set_many({"m": 1})
            await promoted.invalidate_all()
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert [await each.get("m") for each in (added, promoted)] == [None, None]
            for cache in (before, added, promoted, retired):
                assert cache.error_counts["decryption"] == 0

    asyncio.run(work())


def test_namespaces(server: Server) -> None:
    """Tenants with one key do not see, replace, or invalidate each other's values."""

    async def work() -> None:
        async with opened(server, redis_namespace="a") as one, secure(server, redis_namespace="b") as other:
            await one.set("k", 1)
            await one.cache_response(TEXT, "qa", {}, ANSWER)
            assert await other.get("k") is None
            assert await other.get_cached_response(TEXT, "qa", {}) is None
            await other.invalidate_all()
            await other.delete("k")
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            assert await one.get("k") == 1
            assert one._generate_cache_key(TEXT, "qa", {}) != other._generate_cache_key(TEXT, "qa", {})

    asyncio.run(work())


def old_forms(key: str) -> list[bytes]:
    """One answer in each form of the past."""
    token = Fernet(key).encrypt(pickle.dumps(ANSWER))
    return [
        b"raw:" + pickle.dumps(ANSWER), b"compressed:" + zlib.compress(pickle.dumps(ANSWER)), json.dumps(ANSWER).encode(),
        b"encrypted:" + token, b"compressed_encrypted:" + zlib.compress(b"encrypted:" + token), token,
    ]


def test_migration_window(server: Server) -> None:
    """With read_legacy old values are read under their old names, and sealed under their new ones with the time they have left."""
    key = str(server.settings["redis_encryption_key"])

    async def work() -> None:
        async with opened(server, redis_read_legacy=True) as cache:
            for number, form in enumerate(old_forms(key)):
                text = f"text {number}"
                name = cache.key_generator.generate_cache_key(text, "qa", {})
                plant(server, {name: form})
                with server.log_in() as operator:
                    operator.ask(("EXPIRE", name, "50"))
                found = await cache.get_cached_response(text, "qa", {})
                assert found is not None
                assert found["summary"] == ANSWER["summary"]
                with server.log_in() as operator:
                    operator.ask(("DEL", name))
                await cache.invalidate_memory_cache()
                assert (await cache.get_cached_response(text, "qa", {}) or {}).get("summary") == ANSWER["summary"]
                assert cache.redis is not None
                assert 45 <= await cache.redis.execute("TTL", cache._generate_cache_key(text, "qa", {})) <= 50
            plant(server, {"ai_cache:mine": b'{"old": 1}'})
            assert await cache.get("ai_cache:mine") == {"old": 1}
            await cache.set("ai_cache:mine", {"new": 1})
            assert "ai_cache:mine" not in stored(server)
            assert await cache.get("ai_cache:mine") == {"new": 1}

    asyncio.run(work())


def test_invalidation_reaches_old_values(server: Server) -> None:
    """In the window, also where nobody may scan: what was invalidated is not read under its old name any more."""

    async def work() -> None:
        async with opened(server, redis_read_legacy=True) as cache:
            other = secure(server, redis_read_legacy=True)
            for operation in ("qa", "qa2"):
                plant(server, {cache.key_generator.generate_cache_key(TEXT, operation, {}): json.dumps(ANSWER).encode()})
            assert await other.get_cached_response("another", "qa", {}) is None
            await cache.invalidate_by_operation("qa")
            await asyncio.sleep(REFRESH_SECONDS + 0.05)
            for each in (cache, other):
                assert await each.get_cached_response(TEXT, "qa", {}) is None
                assert await each.get_cached_response(TEXT, "qa2", {}) is not None
            await other.close()

    asyncio.run(work())


@pytest.mark.parametrize("mine", ["text", ["a" * 24, 2**40], [None, None]])
def test_a_field_named_like_ours_is_the_callers(server: Server, mine: Any) -> None:
    """An answer's own `_redkeep` comes back, whether it was written and read inside or outside a migration window."""

    async def work() -> None:
        for wrote in (False, True):
            async with opened(server, redis_read_legacy=wrote) as cache:
                await cache.cache_response(LONG, "qa", {}, {"_redkeep": mine})
            for reads in (False, True):
                async with secure(server, redis_read_legacy=reads) as cache:
                    found = await cache.get_cached_response(LONG, "qa", {})
                    assert found is not None
                    assert found["_redkeep"] == mine

    asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_many_old_values_in_few_round_trips(server: Server, client: str) -> None:
    """Misses of get_many look under the old names together: 300 of them cost a handful of round trips, and move their values."""
    keys = [f"ai_cache:mine:{number}" for number in range(300)]

    async def work() -> None:
        async with opened(server, redis_read_legacy=True, redis_client=client) as cache:
            plant(server, {key: json.dumps({"n": key}).encode() for key in keys[:200]} | {keys[200]: b"no json"})
            assert cache.redis is not None
            trips = 0
            ask, ask_many = cache.redis.execute, cache.redis.execute_many

            def counted(call: Callable[..., Any]) -> Callable[..., Any]:
                def run(*arguments: Any) -> Any:
                    nonlocal trips
                    trips += 1
                    return call(*arguments)

                return run

            cache.redis.execute, cache.redis.execute_many = counted(ask), counted(ask_many)  # type: ignore[method-assign]
            await cache.get_many(["another"])
            before = trips
            found = await cache.get_many(keys)
            assert found == {key: {"n": key} for key in keys[:200]}
            assert trips - before <= 6
            assert keys[200] not in stored(server)
            kept = stored(server, "ai_cache:op:*")
            assert all(cache._entry_name(key) in kept for key in keys[:200])
            plant(server, dict.fromkeys(keys[:200], b"0"))
            assert await cache.get_many(keys) == found

    asyncio.run(work())


def test_old_values_without_the_window(server: Server) -> None:
    """By default nothing of the past is even looked at."""
    key = str(server.settings["redis_encryption_key"])

    async def work() -> None:
        async with opened(server) as cache:
            plant(server, {cache.key_generator.generate_cache_key("t", "qa", {}): old_forms(key)[0], "ai_cache:mine": b"1"})
            assert await cache.get_cached_response("t", "qa", {}) is None
            assert await cache.get("ai_cache:mine") is None

    asyncio.run(work())


def test_patterns_of_readable_names_need_the_janitor(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """With its password old names are found by their text; without it the call says what is missing, and nothing is refused."""
    names = {"ai_cache:op:qa|txt:about cats": b"1", "ai_cache:op:qa|txt:about dogs": b"1"}

    async def work() -> None:
        async with opened(server, redis_janitor_password=server.passwords["cache_janitor"]) as cache:
            plant(server, names)
            assert await cache.invalidate_pattern("cats") == 1
            assert [name for name in stored(server) if "txt" in name] == ["ai_cache:op:qa|txt:about dogs"]
        async with opened(server) as cache:
            plant(server, names)
            assert await cache.invalidate_pattern("cats") == 0
            assert cache.performance_monitor.invalidation_events[-1].additional_data["reason"] == "configuration"  # type: ignore[index]

    asyncio.run(work())
    assert any("REDIS_JANITOR_PASSWORD" in str(getattr(record, "reason", "")) for record in caplog.records)


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
