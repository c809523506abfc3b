"""A Redis Cluster: the cache on it, and its entries sealed by `redkeep migrate-data` a server at a time, in parallel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from redkeep.access.cluster import ClusterClient
from redkeep.access.limits import Limits
from redkeep.access.slots import slot_of
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.errors import ConfigurationError, PermissionDeniedError, RedkeepError, ServerUnavailableError
from redkeep.migration.cluster import ClusterMigration, take_census_by_settings
from redkeep.migration.reencrypt import DataMigration
from tests.redis.cluster import RIGHTS, Cluster, migrate, migration, read, secure, target_of
from tests.redis.moving import answers
from tests.redis.old_application import requests
from tests.redis.server import Server
from tests.redis.transport_peer import peer


@pytest.fixture(autouse=True)
def emptied(cluster: Cluster) -> None:
    cluster.empty()


def test_the_cache_works_on_every_server(cluster: Cluster) -> None:
    """Answers and keys of one's own, alone and many at once, are written, read, replaced, deleted and invalidated, and lie sealed
    on all three servers."""
    asked = list(requests(60))

    async def work() -> None:
        async with secure(cluster) as cache:
            assert cache.redis is not None, cache.last_error
            for each in asked:
                await cache.cache_response(*each[:3], each.answer, each.question)
            assert await answers(cache, asked) == [each.answer for each in asked]
            await cache.set_many({f"k{number}": number for number in range(100)})
            assert await cache.get_many([*(f"k{number}" for number in range(100)), "none"]) == {f"k{n}": n for n in range(100)}
            assert await cache.delete_many([f"k{number}" for number in range(100)]) == 100
            await cache.invalidate_by_operation("qa")
            assert [answer is None for answer in await answers(cache, asked)] == [each.operation == "qa" for each in asked]
            assert sum(cache.error_counts.values()) == 0, cache.last_error

    asyncio.run(work())
    for server in cluster.servers:
        with server.log_in() as operator:
            assert operator.ask(("DBSIZE",))[0] > 10  # type: ignore[operator]


def test_old_entries_are_sealed_on_every_server_and_back(cluster: Cluster) -> None:
    """Every old form on every server is sealed with the time it had, a hit in the window and after it; a second run finds nothing
    to do; the way back gives each its old name and plain JSON."""
    asked = list(requests(90))
    cluster.fill(asked)
    before = sorted(left for _, left in cluster.entries().values())
    counts = migrate(cluster)
    assert (counts.readable, counts.left, counts.unreadable, counts.invalidated, counts.superseded) == (90, 0, 0, 0, 0)
    lying = cluster.entries()
    assert len(lying) == 90
    assert all("|h:" in name for name in lying)
    assert b"secret" not in b"".join(stored for stored, _ in lying.values())
    after = sorted(left for _, left in lying.values())
    assert all(abs(one - other) < 5000 for one, other in zip(before, after, strict=True))
    expected = [each.answer for each in asked]
    assert expected == read(cluster, asked, redis_read_legacy=True)[:45] + read(cluster, asked)[45:]
    assert migrate(cluster).moved == 0
    assert migrate(cluster, reverse=True).returned == 90
    assert {each.name for each in asked} == set(cluster.entries())
    assert migrate(cluster).readable == 90
    assert expected == read(cluster, asked)


def test_entries_of_an_older_key_outlive_it(cluster: Cluster) -> None:
    """After a promotion the count of every server names the old key, and after the migration none does; all answers are there."""
    old, new = generate_key(), generate_key()
    asked = list(requests(60))

    async def write() -> None:
        async with secure(cluster, redis_encryption_key=old) as cache:
            for each in asked:
                await cache.cache_response(*each[:3], each.answer, each.question)
            await cache.set("user:1", {"a": 1}, ttl=500)

    asyncio.run(write())
    ring = {"redis_encryption_key": None, "redis_encryption_keys": f"{new},{old}"}
    old_id, new_id = (KeyRing.from_strings([key]).primary.key_id.hex() for key in (old, new))

    def sealed() -> dict[str, int]:
        return asyncio.run(take_census_by_settings(target_of(cluster, **ring), client="cluster")).sealed

    assert sealed() == {old_id: 61}
    counts = migrate(cluster, changes=ring)
    assert (counts.older_key, counts.left, counts.superseded) == (61, 0, 0)
    assert sealed() == {new_id: 61}
    assert [each.answer for each in asked] == read(cluster, asked, redis_encryption_key=new)


def test_a_moved_slot_is_followed(cluster: Cluster) -> None:
    """A slot that goes to another server, and one that is on its way there, with and without their keys, is read and written all
    the same: the client is redirected and knows better afterwards."""
    key = "moving"
    slot, owner = str(slot_of(key)), next(each for each in cluster.servers if slot_of(key) * 3 // 16384 == cluster.servers.index(each))
    other = next(each for each in cluster.servers if each is not owner)

    def tell(server: Server, *words: str) -> Any:
        with server.log_in() as operator:
            return operator.ask(("CLUSTER", *words))[0]

    ids = {id(each): tell(each, "MYID").decode() for each in (owner, other)}

    async def work() -> None:
        async with ClusterClient(target_of(cluster, redis_username="operator", redis_cache_password=owner.passwords["operator"])) as client:
            assert await client.execute("SET", key, "1") == b"OK"
            assert tell(other, "SETSLOT", slot, "IMPORTING", ids[id(owner)]) == "OK"
            assert tell(owner, "SETSLOT", slot, "MIGRATING", ids[id(other)]) == "OK"
            assert await client.execute("GET", key) == b"1"
            assert await client.execute("UNLINK", key) == 1
            assert await client.execute("SET", key, "2") == b"OK"  # it lies on the other by now
            with other.log_in() as operator:
                assert operator.ask(("ASKING",), ("GET", key))[1] == b"2"
            for server in (other, owner):
                assert tell(server, "SETSLOT", slot, "NODE", ids[id(other)]) == "OK"
            assert await client.execute_many([("GET", key), ("GET", "elsewhere")]) == [b"2", None]
            assert (await client.primaries()).owners[int(slot)].port == other.port
            await client.execute("UNLINK", key)

    try:
        asyncio.run(work())
    finally:
        for server in (owner, other):
            tell(server, "SETSLOT", slot, "NODE", ids[id(owner)])


def test_an_interrupted_run_is_gone_on_with(cluster: Cluster, tmp_path: Path) -> None:
    """By the command: each server has a state of its own; killed in the middle, the next run ends it, and all are hits."""
    asked = list(requests(2000))
    cluster.fill(asked)
    values = {name.upper(): value for name, value in cluster.settings.items()}
    (tmp_path / "cache.env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    line = [sys.executable, "-m", "redkeep.cli", "migrate-data", "--env-file", str(tmp_path / "cache.env")]
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REDIS_JANITOR_PASSWORD": cluster.servers[0].passwords["cache_janitor"]}
    running = subprocess.Popen([*line, "--rate", "400"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables)
    end = time.monotonic() + 30
    while len(list((tmp_path / ".local/state/redkeep").glob("migrate-data-127.0.0.1-*.json"))) < 3 and time.monotonic() < end:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.kill()
    running.communicate()
    left = [name for name in cluster.entries() if "|h:" not in name]
    assert 0 < len(left) < 2000
    again = subprocess.run([*line, "--rate", "0", "--json"], capture_output=True, env=variables, check=True)
    counts = json.loads(again.stdout)
    assert counts["left"] == counts["unreadable"] == counts["superseded"] == 0
    assert [each.answer for each in asked[::50]] == read(cluster, asked[::50])


def test_what_cannot_be_is_refused_in_a_sentence(cluster: Cluster, server: Server) -> None:
    """A single server called a Cluster, one of a Cluster called single, a user who may not ask, a server that is down, and a
    database that no Cluster has."""
    password = {"redis_janitor_password": server.passwords["cache_janitor"]}

    def refusal(kind: type[RedkeepError], work: Any) -> str:
        with pytest.raises(kind) as caught:
            asyncio.run(work)
        return str(caught.value)

    with server.log_in() as operator:
        assert operator.ask(("ACL", "SETUSER", "cache_service", *RIGHTS)) == ["OK"]
    try:
        assert "remove REDIS_CLIENT=cluster" in refusal(ConfigurationError, ClusterMigration(server.target(**password)).run())
    finally:
        with server.log_in() as operator:
            assert operator.ask(("ACL", "SETUSER", "cache_service", *(f"-{rule[1:]}" for rule in RIGHTS))) == ["OK"]
    assert "grant it +cluster|slots +asking" in refusal(PermissionDeniedError, ClusterMigration(server.target(**password)).run())
    assert "set REDIS_CLIENT=cluster" in refusal(ConfigurationError, DataMigration(target_of(cluster)).run())
    assert "set REDIS_CLIENT=cluster" in refusal(ConfigurationError, take_census_by_settings(target_of(cluster), client="transport"))
    assert "names a database" in refusal(ConfigurationError, migration(cluster, changes={"redis_url": "rediss://127.0.0.1:1/1"}).run())
    cluster.fill(list(requests(30)))
    before = set(cluster.entries())
    down = cluster.servers[2]
    down.process.send_signal(signal.SIGSTOP)
    try:
        limits = {"redis_url": f"rediss://127.0.0.1:{cluster.servers[0].port}/0?socket_connect_timeout=0.5"}
        assert f"127.0.0.1:{down.port}: no answer in time" in refusal(RedkeepError, migration(cluster, changes=limits).run())
    finally:
        down.process.send_signal(signal.SIGCONT)
    assert set(cluster.entries()) == before


def test_servers_that_do_not_answer_cost_all_callers_one_deadline() -> None:
    """Twenty at once, none of whom knows the map: they hear of it together, not one after another."""

    async def frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    async def work() -> list[Any]:
        async with peer(frozen) as target, ClusterClient(target, limits=Limits(connect_seconds=0.25)) as client:
            began = time.monotonic()
            calls = [client.execute("GET", f"ai_cache:{number}") for number in range(20)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 2.0
            return found

    assert {type(each) for each in asyncio.run(work())} == {ServerUnavailableError}
