"""Entries of a Redis Cluster while they are sealed: live traffic, other runs, and slots that change servers meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from redkeep.access.client import Command
from redkeep.access.cluster import ClusterClient
from redkeep.access.slots import Node, slot_of
from redkeep.crypto.keyring import generate_key
from redkeep.errors import ConfigurationError
from redkeep.migration.cluster import NodeMigration
from redkeep.migration.counts import Counts
from redkeep.migration.lease import Lease
from tests.redis.cluster import Cluster, migrate, migration, read, secure, target_of
from tests.redis.moving import beside_traffic, held
from tests.redis.old_application import requests


@pytest.fixture(autouse=True)
def emptied(cluster: Cluster) -> None:
    cluster.empty()


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

    with pytest.raises(ConfigurationError, match="moved between servers during each of 3 sweeps"):
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
