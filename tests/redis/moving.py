"""Runs of `redkeep migrate-data`, from Python and as the command, and what is there before and after."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def times(server: Server) -> dict[str, int]:
    """Milliseconds to live of every entry."""
    names = list(stored(server))
    with server.log_in() as operator:
        return dict(zip(names, operator.ask(*(("PTTL", name) for name in names)), strict=True)) if names else {}  # type: ignore[arg-type]


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


def read_whole(server: Server, asked: list[Request]) -> list[Any]:
    """All that was stored, not only what was asked for."""

    async def work() -> list[Any]:
        async with secure(server, options={"memory_cache_size": 0}) as cache:
            return [await cache.get_cached_response(*each[:4]) for each in asked]

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
