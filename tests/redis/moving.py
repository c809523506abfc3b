"""Runs of `redkeep migrate-data`, from Python and as the command, and what is there before and after."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from redkeep.cache.secure import SecureAIResponseCache
from redkeep.migration.counts import Counts
from redkeep.migration.reencrypt import DataMigration
from tests.redis.caches import secure, stored
from tests.redis.old_application import Request
from tests.redis.server import Server


def migration(server: Server, **options: Any) -> DataMigration:
    """A run over a server; options that begin with `redis_` are settings."""
    changes = {name: options.pop(name) for name in list(options) if name.startswith("redis_")}
    target = server.target(**{"redis_janitor_password": server.passwords["cache_janitor"], **changes})
    return DataMigration(target, **{"rate": 0, **options})


def migrate(server: Server, **options: Any) -> Counts:
    """Done, without a limit of pace."""
    return asyncio.run(migration(server, **options).run())


def ends(server: Server) -> dict[str, int]:
    """When every entry expires, in milliseconds since 1970; -1 for never."""
    names = list(stored(server))
    with server.log_in() as operator:
        return dict(zip(names, operator.ask(*(("PEXPIRETIME", name) for name in names)), strict=True)) if names else {}  # type: ignore[arg-type]


async def answers(cache: SecureAIResponseCache, asked: list[Request]) -> list[Any]:
    """What a cache says, without what it has added."""
    found = [await cache.get_cached_response(*each[:4]) for each in asked]
    return [{name: hit[name] for name in each.answer} if hit else None for each, hit in zip(asked, found, strict=True)]


def read(server: Server, asked: list[Request], **changes: Any) -> list[Any]:
    """The same by a cache of its own, without a memory tier."""
    async def work() -> list[Any]:
        async with secure(server, options={"memory_cache_size": 0}, **changes) as cache:
            assert cache.redis is not None, cache.last_error
            return await answers(cache, asked)

    return asyncio.run(work())


class Beside(NamedTuple):
    """How a run ended, and what live traffic saw of it: names that were missed, the last answer written for each, rounds of all."""

    counts: Counts
    missed: list[str]
    latest: dict[str, dict[str, Any]]
    rounds: int


class Migration(Protocol):
    """Of one server, or of a Cluster."""

    async def run(self) -> Counts: ...


def beside_traffic(moving: Migration, window: SecureAIResponseCache, asked: list[Request]) -> Beside:
    """A run while a cache in the window reads all that was asked for again and again, and each time writes a third of it anew."""
    latest = {each.name: each.answer for each in asked}
    missed: list[str] = []
    rounds = 0

    async def traffic(done: asyncio.Event) -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            for number, each in enumerate(asked):
                if number % 3 == rounds % 3:
                    latest[each.name] = {**each.answer, "round": rounds}
                    await window.cache_response(*each[:3], latest[each.name], each.question)
                    continue
                found = await window.get_cached_response(*each[:4])
                if found is None or {name: found[name] for name in latest[each.name]} != latest[each.name]:
                    missed.append(each.name)

    async def work() -> Counts:
        async with window:
            done = asyncio.Event()
            live = asyncio.create_task(traffic(done))
            await asyncio.sleep(0.05)
            counts = await moving.run()
            done.set()
            await live
            assert sum(window.error_counts.values()) == 0, window.last_error
            return counts

    return Beside(asyncio.run(work()), missed, latest, rounds)


def held(cache: SecureAIResponseCache, asked: list[Request], latest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What another cache finds for each request, of the fields that `latest` has."""

    async def work() -> dict[str, Any]:
        async with cache:
            found = [(each, await cache.get_cached_response(*each[:4])) for each in asked]
            return {each.name: {name: hit.get(name) for name in latest[each.name]} if hit else None for each, hit in found}

    return asyncio.run(work())


def env_file(server: Server, folder: Path, **changes: str) -> Path:
    """An app host's env file: it does not hold the janitor's password."""
    path = folder / "cache.env"
    values = {name.upper(): str(value) for name, value in server.settings.items()} | changes
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items() if value))
    return path


def command(server: Server, folder: Path, *more: str, janitor: bool = True, **changes: str) -> subprocess.Popen[str]:
    """`redkeep migrate-data`, begun."""
    line = [sys.executable, "-m", "redkeep.cli", "migrate-data", "--env-file", str(env_file(server, folder, **changes))]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    if janitor:
        variables["REDIS_JANITOR_PASSWORD"] = server.passwords["cache_janitor"]
    return subprocess.Popen([*line, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
