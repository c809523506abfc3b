"""A Redis Cluster: the cache on it, and its entries sealed by `redkeep migrate-data` a server at a time, in parallel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from redkeep.access.client import Command
from redkeep.access.cluster import ClusterClient
from redkeep.access.slots import Node, slot_of
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.errors import ConfigurationError, PermissionDeniedError, RedkeepError
from redkeep.migration.cluster import ClusterMigration, NodeMigration, take_census_by_settings
from redkeep.migration.counts import Counts
from redkeep.migration.lease import Lease
from redkeep.migration.reencrypt import DataMigration
from redkeep.settings import Settings
from redkeep.target import build_target
from tests.redis.cluster import RIGHTS, Cluster, cluster_of
from tests.redis.moving import answers, beside_traffic, held
from tests.redis.old_application import Request, requests
from tests.redis.server import Files, Server


@pytest.fixture(scope="module")
def cluster(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_of(files, tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(autouse=True)
def emptied(cluster: Cluster) -> None:
    cluster.empty()


def settings_of(cluster: Cluster, **changes: Any) -> Settings:
    return Settings(**{**cluster.settings, **changes})


def secure(cluster: Cluster, **changes: Any) -> SecureAIResponseCache:
    return SecureAIResponseCache.from_settings(settings_of(cluster, **changes), memory_cache_size=0)


def target_of(cluster: Cluster, **changes: Any) -> Any:
    given = {**cluster.settings, "redis_janitor_password": cluster.servers[0].passwords["cache_janitor"], **changes}
    return build_target(**{name: value for name, value in given.items() if name != "redis_client"})


def migration(cluster: Cluster, *, changes: dict[str, Any] | None = None, **options: Any) -> ClusterMigration:
    return ClusterMigration(target_of(cluster, **(changes or {})), **{"rate": 0, **options})


def migrate(cluster: Cluster, **options: Any) -> Counts:
    return asyncio.run(migration(cluster, **options).run())


def read(cluster: Cluster, asked: list[Request], **changes: Any) -> list[Any]:
    async def work() -> list[Any]:
        async with secure(cluster, **changes) as cache:
            assert cache.redis is not None, cache.last_error
            found = await answers(cache, asked)
            assert sum(cache.error_counts.values()) == 0, cache.last_error
            return found

    return asyncio.run(work())


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


def test_live_traffic_loses_nothing(cluster: Cluster) -> None:
    """While entries move between servers, a reader of all of them misses none, and the last write of each is what is there."""
    asked = list(requests(300))
    cluster.fill(asked)
    beside = beside_traffic(migration(cluster, rate=200), secure(cluster, redis_read_legacy=True), asked)
    assert beside.missed == []
    assert beside.counts.left == 0
    assert beside.rounds > 1
    assert not [name for name in cluster.entries() if "|h:" not in name]
    assert held(secure(cluster), asked, beside.latest) == beside.latest


def test_two_runs_at_once_lose_nothing(cluster: Cluster) -> None:
    """Of two runs on the same Cluster the second is refused with the name of the first, which ends its work; all are hits."""
    asked = list(requests(600))
    cluster.fill(asked)

    async def work() -> list[Any]:
        return await asyncio.gather(*(migration(cluster, rate=40).run() for _ in range(2)), return_exceptions=True)

    refused, done = sorted(asyncio.run(work()), key=lambda found: isinstance(found, Counts))
    assert isinstance(refused, ConfigurationError), refused
    assert f"process {os.getpid()} on " in str(refused)
    assert "is at work on the entries of this Cluster; run again when that has ended" in str(refused)
    assert (done.readable, done.left) == (600, 0)
    assert [each.answer for each in asked] == read(cluster, asked)


def test_a_run_that_stood_still_for_too_long_takes_nothing_back(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has moved an entry that it had read and written at its new place: it stops with a sentence, and the entry stays."""
    asked = [each for each in requests(20) if slot_of(each.name) * 3 // 16384 == 0][:1]
    cluster.fill(asked)
    asleep = 0.0
    lease = Lease

    class Slow(NodeMigration):
        async def _write(self, moves: Any) -> set[bytes]:
            nonlocal asleep
            written = await super()._write(moves)
            if moves and not asleep:
                asleep = 100.0
                with cluster.servers[0].log_in() as operator:
                    operator.ask(("UNLINK", asked[0].name))
                for server in cluster.servers:
                    with server.log_in() as operator:
                        operator.ask(("SET", "ai_cache:lock:migrate-data:", "another\x1b", "XX"))
            return written

    monkeypatch.setattr("redkeep.migration.cluster.NodeMigration", Slow)
    monkeypatch.setattr(
        "redkeep.migration.cluster.Lease", lambda *words: lease(*words, clock=lambda: time.monotonic() + asleep)
    )
    with pytest.raises(ConfigurationError, match=r"stood still for 15 s or more, and 'another\\x1b' has begun"):
        migrate(cluster)
    assert [each.answer for each in asked] == read(cluster, asked, redis_read_legacy=True)


def test_slots_that_change_servers_meanwhile_lose_nothing(cluster: Cluster) -> None:
    """While entries are sealed and an application works, one server gives slots away, entry by entry, and gets others: none is
    missed, none lies readable at the end, and the last write of each is what is there."""
    asked = list(requests(300))
    cluster.fill(asked)
    places = sorted({slot_of(each.name) for each in asked})
    given = {(source, target): [slot for slot in places if slot * 3 // 16384 == source][:10] for source, target in ((0, 1), (2, 0))}

    def exchange() -> None:
        while cluster.readable() == len(asked):
            time.sleep(0.01)
        for (source, target), slots in given.items():
            cluster.move(slots, source=source, target=target)
        assert cluster.readable() > 0

    with ThreadPoolExecutor() as pool:
        moving = pool.submit(exchange)
        beside = beside_traffic(migration(cluster, rate=40), secure(cluster, redis_read_legacy=True), asked)
        moving.result()
        for (source, target), slots in given.items():
            cluster.move(slots, source=target, target=source)
    assert beside.missed == []
    assert beside.counts.left == 0
    assert cluster.readable() == 0
    assert held(secure(cluster), asked, beside.latest) == beside.latest


def test_a_cluster_that_does_not_come_to_rest_is_not_called_done(cluster: Cluster) -> None:
    """When slots change servers in every sweep, the run says so and is to be repeated; nothing is lost."""
    asked = list(requests(30))
    cluster.fill(asked)
    given: list[int] = []

    def shown(_: object) -> None:
        given.append(len(given))
        cluster.move(given[-1:], source=0, target=1)

    with pytest.raises(ConfigurationError, match="changed servers during each of 3 sweeps"):
        migrate(cluster, show=shown)
    cluster.move(given, source=1, target=0)
    assert migrate(cluster).left == 0
    assert cluster.readable() == 0
    assert [each.answer for each in asked] == read(cluster, asked)


def test_a_value_that_moves_while_it_is_asked_for_is_found(cluster: Cluster) -> None:
    """Its new place answers before it is there, and its old place after it is gone: one MGET finds it all the same."""
    owner = {slot_of(name) * 3 // 16384: name for name in (f"ai_cache:{number}" for number in range(20))}
    old, new = owner[0], owner[2]

    class Moving(ClusterClient):
        looked = asyncio.Event()

        async def _at(self, node: Node, commands: list[Command]) -> list[Any]:
            if commands == [("MGET", old)]:
                await self.looked.wait()
                for server, command in ((cluster.servers[2], ("SET", new, "1")), (cluster.servers[0], ("UNLINK", old))):
                    with server.log_in() as operator:
                        operator.ask(command)
                return await super()._at(node, commands)
            found = await super()._at(node, commands)
            self.looked.set()
            return found

    async def work() -> None:
        async with Moving(target_of(cluster)) as client:
            await client.execute("SET", old, "1")
            Moving.looked.clear()
            assert await client.execute("MGET", new, old) == [b"1", None]

    asyncio.run(work())


def test_a_write_between_reading_and_moving_is_what_counts(cluster: Cluster) -> None:
    """An entry that an application replaces, and one that it deletes, after they were read and before they are removed at their old
    places stay so, and what was written at the new places is taken back."""
    replaced, deleted = [each for each in requests(20) if slot_of(each.name) * 3 // 16384 == 0][:2]
    cluster.fill([replaced, deleted])
    new = {**replaced.answer, "answer": "new"}

    class Interrupted(NodeMigration):
        async def _write(self, moves: Any) -> set[bytes]:
            written = await super()._write(moves)
            if not interfered:
                async with secure(cluster, redis_read_legacy=True) as cache:
                    assert cache.redis is not None
                    await cache.redis.execute("UNLINK", deleted.name)
                    await cache.cache_response(*replaced[:3], new, replaced.question)
            interfered.append(len(written))
            return written

    interfered: list[int] = []

    async def work() -> None:
        async with ClusterClient(target_of(cluster)) as client:
            node = (await client.primaries()).owners[slot_of(replaced.name)]
            await Interrupted(client.target_of(node), client, asyncio.Lock(), **migration(cluster)._options).run()

    asyncio.run(work())
    assert interfered[0] == 2
    assert read(cluster, [replaced, deleted], redis_read_legacy=True) == [new, None]
    assert len(cluster.entries()) == 1


def test_what_lies_at_the_new_place_counts_more(cluster: Cluster) -> None:
    """An entry of an older key that an application writes anew, under the new one, between being read and being moved stays as written."""
    old, new = generate_key(), generate_key()
    ring = {"redis_encryption_key": None, "redis_encryption_keys": f"{new},{old}"}
    interfered: list[int] = []

    async def put(value: str, key: str) -> None:
        async with secure(cluster, redis_encryption_key=key) as cache:
            await cache.set("user:1", value)

    class Interrupted(NodeMigration):
        async def _write(self, moves: Any) -> set[bytes]:
            if moves and not interfered:
                interfered.append(len(moves))
                await put("written since", new)
            return await super()._write(moves)

    async def work() -> None:
        await put("of before", old)
        async with ClusterClient(target_of(cluster, **ring)) as client:
            for node in set((await client.primaries()).owners.values()):
                await Interrupted(client.target_of(node), client, asyncio.Lock(), **migration(cluster, changes=ring)._options).run()
        async with secure(cluster, redis_encryption_key=new) as cache:
            assert await cache.get("user:1") == "written since"

    asyncio.run(work())
    assert interfered == [1]
    assert len(cluster.entries()) == 1


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
        assert "take REDIS_CLIENT=cluster out" in refusal(ConfigurationError, ClusterMigration(server.target(**password)).run())
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
