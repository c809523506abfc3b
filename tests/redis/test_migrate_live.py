"""`redkeep migrate-data` beside what others do: live traffic, changes in between, kills, lost connections, a second run."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from redkeep.errors import ConfigurationError
from redkeep.migration.counts import Counts
from redkeep.migration.reencrypt import DataMigration
from tests.redis.caches import empty, plant, secure, stored
from tests.redis.moving import beside_traffic, command, held, migration, read
from tests.redis.old_application import fill, requests
from tests.redis.server import Server


def test_live_writes_are_never_overwritten(server: Server) -> None:
    """While entries move, a reader of all of them misses none, and the last write of each key is what is there at the end."""
    empty(server)
    asked = list(requests(300))
    fill(server, asked)
    alone = {"options": {"memory_cache_size": 0}}
    beside = beside_traffic(migration(server, rate=400), secure(server, redis_read_legacy=True, **alone), asked)
    assert beside.missed == []
    assert beside.counts.left == 0
    assert beside.rounds > 1
    assert not [name for name in stored(server) if "|h:" not in name]
    assert held(secure(server, **alone), asked, beside.latest) == beside.latest


def test_a_change_between_reading_and_writing(server: Server) -> None:
    """An entry that is replaced, and one that is deleted, in the very moment before it would be moved stay so."""
    empty(server)
    plant(server, {"ai_cache:a": b'"old"', "ai_cache:b": b'"old"'})

    class Interrupted(DataMigration):
        async def _mark(self, moves: Any) -> None:
            await super()._mark(moves)
            if not self.counts.conflicts:
                async with secure(server, redis_read_legacy=True) as cache:
                    await cache.set("ai_cache:a", "new")
                    await cache.delete("ai_cache:b")

    migration = Interrupted(server.target(redis_janitor_password=server.passwords["cache_janitor"]), rate=0)
    assert asyncio.run(migration.run()).conflicts == 1

    async def work() -> None:
        async with secure(server, redis_read_legacy=True) as cache:
            assert await cache.get_many(["ai_cache:a", "ai_cache:b"]) == {"ai_cache:a": "new"}

    asyncio.run(work())
    assert len(stored(server)) == 1


def test_killed_and_run_again(server: Server, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """SIGKILL in the middle loses no entry: the next run goes on where it was, and at its end all are hits."""
    empty(server)
    count = 20_000 if pytestconfig.getoption("--soak") else 5_000
    asked = list(requests(count))
    fill(server, asked)
    state = tmp_path / ".local" / "state" / "redkeep" / "migrate-data.json"
    running = command(server, tmp_path, "--rate", "1500")
    end = time.monotonic() + 30
    while (not state.exists() or not json.loads(state.read_text())["cursor"]) and time.monotonic() < end:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.kill()
    running.communicate()
    left = [name for name in stored(server) if "|h:" not in name]
    assert 0 < len(left) < count
    again = command(server, tmp_path, "--rate", "0", "--json")
    counts = json.loads(again.communicate(timeout=120)[0])
    assert again.returncode == 0
    assert len(left) <= counts["readable"] <= count
    assert counts["left"] == counts["unreadable"] == 0
    assert not state.exists()
    assert [each.answer for each in asked[::100]] == read(server, asked[::100])


def test_lost_connections_are_made_anew(server: Server) -> None:
    """A server that drops every client in the middle costs a moment, and no entry."""
    empty(server)
    asked = list(requests(400))
    fill(server, asked)

    async def work() -> Counts:
        run = asyncio.create_task(migration(server, rate=300).run())
        for _ in range(3):
            await asyncio.sleep(0.9)
            with server.log_in() as operator:
                operator.ask(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        return await run

    counts = asyncio.run(work())
    assert (counts.readable, counts.left) == (400, 0)
    assert [each.answer for each in asked[::10]] == read(server, asked[::10])


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    """The second run of the same state is refused with a sentence; runs with states of their own do no harm to each other."""
    empty(server)
    asked = list(requests(300))
    fill(server, asked)

    async def both() -> tuple[Counts, Counts]:
        first = migration(server, rate=200, state_file=tmp_path / "state")
        run = asyncio.create_task(first.run())
        await asyncio.sleep(0.3)
        with pytest.raises(ConfigurationError, match="another run is using"):
            await migration(server, state_file=tmp_path / "state").run()
        return await migration(server).run(), await run

    one, other = asyncio.run(both())
    assert one.readable + other.readable == 300
    assert [each.answer for each in asked] == read(server, asked)
