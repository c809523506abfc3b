"""A primary behind a Sentinel: the cache follows a failover, and says what is wrong when it cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redkeep.access.redis_py import RedisPyClient
from redkeep.access.sentinel import Primary, Sentinels
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.cli import main
from redkeep.crypto.passwords import generate_password
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError, ServerUnavailableError
from redkeep.migration.primary import take_census_there
from redkeep.settings import Settings
from tests.redis.moving import command
from tests.redis.old_application import fill, requests
from tests.redis.sentinel import NAME, Watched, watched
from tests.redis.server import Files, Server
from tests.redis.transport_peer import Script, peer


@pytest.fixture(scope="module")
def site(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(files, tmp_path_factory.mktemp("sentinel")) as made:
        yield made


def secure(site: Watched, **changes: Any) -> SecureAIResponseCache:
    return SecureAIResponseCache.from_settings(Settings(**{**site.settings, **changes}), memory_cache_size=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"redis_sentinel_name": "other"}, "none names a primary that is up"),
        ({"redis_sentinel_password": generate_password()}, "none names a primary that is up"),
        ({"redis_sentinels": "127.0.0.1:1"}, "none names a primary that is up"),
    ],
)
def test_without_a_primary_every_call_is_a_miss(site: Watched, changes: dict[str, str], says: str) -> None:
    """Another name, a wrong password, no Sentinel that is up: the reason is there, and no secret in it."""

    async def work() -> None:
        async with secure(site, **changes) as cache:
            assert await cache.get("key") is None
            assert says in str(cache.last_error)
            assert site.password not in str(cache.last_error)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"redis_sentinels": ""}, "needs REDIS_SENTINELS"),
        ({"redis_sentinels": "user:secret@127.0.0.1:26379"}, "and no login"),
        ({"redis_sentinels": "127.0.0.1:99999"}, "host:port of each"),
        ({"redis_client": "sentinels"}, "REDIS_CLIENT is wrong"),
        ({"redis_client_tracking": True}, "needs REDIS_CLIENT=transport"),
    ],
)
def test_settings_that_cannot_be_are_refused(site: Watched, changes: dict[str, Any], says: str) -> None:
    """When the cache is made, in a sentence."""
    with pytest.raises(ConfigurationError, match=says) as refused:
        secure(site, **changes)
    assert "secret" not in str(refused.value)


def test_what_is_no_sentinel_is_passed_over_and_named(open_server: Server) -> None:
    """A Redis, and what speaks no Redis at all, among REDIS_SENTINELS: the next one is asked. When none answers, a call is a miss that
    says which address is wrong, and nothing of redis-py's reaches the application."""
    words = ("name", NAME, "ip", "192.0.2.7", "port", "6380", "flags", "master", "num-other-sentinels", "0")
    names_it = b"*1\r\n*10\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)

    def answers(reply: bytes) -> Script:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                writer.write(reply if b"SENTINEL" in data else b"+OK\r\n" * data.count(b"*"))

        return script

    async def work() -> None:
        redis = f"127.0.0.1:{open_server.plain_port or open_server.port}"
        async with peer(answers(b"nonsense\r\n")) as odd, peer(answers(names_it)) as right:
            addresses = (("127.0.0.1", int(redis.rpartition(":")[2])), ("127.0.0.1", odd.port), ("127.0.0.1", right.port))
            primary = Primary(right, Sentinels(addresses, NAME, None, None))
            assert await primary.find() == ("192.0.2.7", 6380)
        settings = Settings(environment="development", redis_url=f"redis://{redis}", redis_client="sentinel", redis_sentinels=redis)
        async with SecureAIResponseCache.from_settings(settings) as cache:
            assert await cache.get("key") is None
            assert f"{redis} does not answer SENTINEL MASTERS" in str(cache.last_error)

    asyncio.run(work())


def test_a_server_that_is_no_primary_any_more_is_left(site: Watched) -> None:
    """A write that a replica refuses fails, and the next one finds the primary."""
    target = Settings(**site.settings).target
    replica = site.servers[1].port

    class Late(Primary):
        first = True

        async def find(self) -> tuple[str, int]:
            found = ("127.0.0.1", replica) if self.first else await super().find()
            self.first = False
            return found

    write = ("SET", "ai_cache:a", "1")

    async def one(client: RedisPyClient) -> Any:
        return await client.execute(*write)

    async def many(client: RedisPyClient) -> Any:
        (reply,) = await client.execute_many([write])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def work() -> None:
        for way in (one, many):
            client = RedisPyClient(target, primary=Late(target, Sentinels.of(site.settings)))
            with pytest.raises(ServerUnavailableError, match="READONLY"):
                await way(client)
            assert await way(client) == b"OK"
            await client.close()

    asyncio.run(work())


def test_entries_are_moved_and_counted_at_the_primary(site: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`REDIS_URL` names the replica, which would refuse each write and may lag: migrate-data, the count and `keys retire` go where
    the Sentinels say."""
    primary, replica = site.servers
    store = SecretStore.open(tmp_path / "secrets", create=True)
    (old,) = store.encryption_keys()
    with primary.log_in() as operator:
        operator.ask(("FLUSHALL",))
    fill(primary, list(requests(10)))
    known = {name.upper(): str(value) for name, value in site.settings.items() if "sentinel" in name or name == "redis_client"}
    run = command(replica, tmp_path, **known, REDIS_ENCRYPTION_KEY=old)
    out, err = run.communicate(timeout=30)
    assert (run.returncode, "10 entries encrypted" in out) == (0, True), err
    with replica.log_in() as operator:  # it has stopped to follow
        assert operator.ask(("REPLICAOF", "NO", "ONE"), ("FLUSHALL",)) == ["OK", "OK"]
    try:
        run = command(replica, tmp_path, "--count", **known, REDIS_ENCRYPTION_KEY=old)
        assert "10 encrypted with" in run.communicate(timeout=30)[0]
        folder = ["--secrets", str(tmp_path / "secrets")]
        store.set_password("cache_janitor", primary.passwords["cache_janitor"])
        assert main(["keys", "add", *folder]) == main(["keys", "promote", *folder]) == 0
        assert main(["keys", "retire", *folder, "--env-file", str(tmp_path / "cache.env")]) == 2
        assert "entries still encrypted with old keys: 10 with" in capsys.readouterr().err
    finally:
        with replica.log_in() as operator:
            operator.ask(("REPLICAOF", "127.0.0.1", str(primary.port)))


def test_a_failover_meanwhile_is_no_success(site: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is primary at the end was another server at the beginning: what was counted there is not given out."""
    answers = iter([("127.0.0.1", site.servers[0].port), ("127.0.0.1", site.servers[1].port)])

    async def ask(_: Primary) -> tuple[str, int]:
        return next(answers)

    monkeypatch.setattr(Primary, "_ask", ask)
    target = Settings(**site.settings, redis_janitor_password=site.servers[0].passwords["cache_janitor"]).target
    with pytest.raises(ConfigurationError, match=r"at the beginning and is 127\.0\.0\.1:\d+ now.*run again"):
        asyncio.run(take_census_there(target, site.settings))


def test_a_failover_is_followed(site: Watched) -> None:
    """The primary dies under load: within seconds the same cache reads what it wrote before, and writes, on the promoted replica;
    the old one comes back and still takes itself for the primary, and nobody believes it."""

    async def work() -> None:
        async with secure(site) as cache:
            await cache.set("before", {"a": 1}, 600)
            end = time.monotonic() + 60
            with site.servers[0].log_in() as operator:
                while operator.ask(("SET", "written", "1"), ("WAIT", "1", "500"))[1] != 1:
                    assert time.monotonic() < end, "the replica does not follow"
            site.servers[0].process.kill()
            site.servers[0].process.wait()
            while await cache.get("before") != {"a": 1}:
                assert time.monotonic() < end, cache.last_error
                await asyncio.sleep(0.05)
            while site.primary() is not site.servers[1]:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            site.servers[0].start_again()
            async with secure(site) as another:
                for writer, reader, name in ((cache, another, "after"), (another, cache, "last")):
                    await writer.set(name, {"b": 2}, 600)
                    while await reader.get(name) != {"b": 2}:
                        assert time.monotonic() < end, (name, writer.last_error, reader.last_error)
                        await asyncio.sleep(0.05)
                        await writer.set(name, {"b": 2}, 600)

    asyncio.run(work())
    assert Sentinels.of(site.settings).name == NAME
    assert site.password not in repr(Sentinels.of(site.settings))
