"""A running cache takes up the password that its settings' files have: on the connections that are up, without a failed call."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from redkeep.cache.secure import KEYS_SECONDS, SecureAIResponseCache
from redkeep.crypto.passwords import generate_password
from redkeep.settings import Settings
from tests.redis.caches import CLIENTS
from tests.redis.cluster import cluster_of
from tests.redis.server import Files, Server

WAYS = pytest.mark.parametrize(
    ("client", "sealed"), [("transport", True), ("transport", False), ("redis-py", True), ("redis-py", False)]
)


class App:
    """A cache made from an env file that changes under it, and the server's own view of its connections."""

    def __init__(self, servers: list[Server], file: Path, settings: dict[str, Any], *, client: str, sealed: bool = True) -> None:
        self.file = file
        self.settings = {**settings, "redis_client": client}
        if not sealed:
            del self.settings["redis_encryption_key"]
        self.write(servers[0].passwords["cache_service"])
        self.operators = [server.log_in() for server in servers]
        self.cache = SecureAIResponseCache.from_settings(Settings.load(file))

    def write(self, password: str) -> None:
        self.settings["redis_cache_password"] = password
        self.file.write_text("".join(f"{name.upper()}={value}\n" for name, value in self.settings.items()))

    def ask(self, *command: str) -> list[Any]:
        return [reply for operator in self.operators for reply in operator.ask(command)]

    def sessions(self) -> set[str]:
        """Addresses of the cache user's connections."""
        lines = "\n".join(str(text, "utf-8") for text in self.ask("CLIENT", "LIST")).splitlines()
        return {line.split(" addr=")[1].split(" ")[0] for line in lines if " user=cache_service " in line}

    def logins(self) -> list[int]:
        """How often somebody has logged in on a connection that was up, on each server since its figures were reset."""
        told = [re.search(rb"cmdstat_auth:calls=(\d+)", text) for text in self.ask("INFO", "commandstats")]
        return [int(found[1]) if found else 0 for found in told]

    def close(self) -> None:
        for operator in self.operators:
            operator.socket.close()

    async def until(self, holds: Callable[[], bool]) -> bool:
        """Go on with the cache's work until it holds, for as long as a look at the files may take."""
        end = time.monotonic() + KEYS_SECONDS
        while time.monotonic() < end and not holds():
            await self.work()
            await asyncio.sleep(0.02)
        return holds()

    async def work(self) -> None:
        keys = [f"ai_cache:k{number}" for number in range(10)]
        await asyncio.gather(*(self.cache.set(key, key) for key in keys))
        assert await asyncio.gather(*map(self.cache.get, keys)) == keys


@WAYS
def test_a_rotated_password_reaches_connections_that_are_up(
    start: Callable[..., Server], tmp_path: Path, client: str, sealed: bool
) -> None:
    """While both are valid and calls go on, the transport logs in again on its connection, redis-py's connections are replaced; no
    call fails, one login more is told. When the old password goes, with the sessions, the next call is answered."""
    server, new = start(), generate_password()
    app = App([server], tmp_path / "cache.env", server.settings, client=client, sealed=sealed)

    def renewed(before: set[str]) -> bool:
        if client == "transport":
            return app.cache.security_monitor.count("auth_attempt", success=True) == 2
        return not app.sessions() & before

    async def work() -> None:
        async with app.cache as cache:
            await app.work()
            assert cache._next_look - time.monotonic() <= KEYS_SECONDS == 5
            before = app.sessions()
            app.ask("ACL", "SETUSER", "cache_service", f">{new}")
            app.ask("CONFIG", "RESETSTAT")
            app.write(new)
            cache._next_look = 0.0
            assert await app.until(lambda: renewed(before))
            if client == "transport":
                assert app.sessions() == before
                assert app.logins() == [1]
            app.ask("ACL", "SETUSER", "cache_service", f"<{server.passwords['cache_service']}")
            await app.work()
            app.ask("CLIENT", "KILL", "USER", "cache_service")
            await asyncio.sleep(0.05)
            await app.work()
            assert sum(cache.error_counts.values()) == 0
            assert cache.security_monitor.count("auth_attempt", success=False) == 0
            assert cache.security_monitor.count("auth_attempt", success=True) == 2

    with closing(app):
        asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_password_that_is_refused_ends_no_connection(start: Callable[..., Server], tmp_path: Path, client: str) -> None:
    """What is up stays up and is used; the refusal is counted and told once, in ACL LOG too. A file that is half written is no
    change, and the right password is taken up afterwards."""
    server, new = start(), generate_password()
    app = App([server], tmp_path / "cache.env", server.settings, client=client)

    async def work() -> None:
        async with app.cache as cache:
            await app.work()
            before = app.sessions()
            app.write("Zz9-" + "wrong" * 8)
            cache._next_look = 0.0
            assert await app.until(lambda: cache.error_counts["authentication"] == 1)
            cache._next_look = 0.0
            app.file.write_text("REDIS_URL=")
            await app.work()
            await asyncio.sleep(0.1)
            assert app.sessions() & before
            (log,) = app.ask("ACL", "LOG")
            assert [entry[1] for entry in log] == [1]
            app.ask("ACL", "SETUSER", "cache_service", f">{new}")
            app.write(new)
            cache._next_look = 0.0
            assert await app.until(lambda: cache.security_monitor.count("auth_attempt", success=True) == 2)
            assert sum(cache.error_counts.values()) == cache.error_counts["authentication"] == 1

    with closing(app):
        asyncio.run(work())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_right_password_ends_the_wait_after_a_refusal(start: Callable[..., Server], tmp_path: Path, client: str) -> None:
    """The old password went before the file named the new one: attempts are put off for 30 s, unless the file changes."""
    server, new = start(), generate_password()
    app = App([server], tmp_path / "cache.env", server.settings, client=client)

    async def work() -> None:
        async with app.cache as cache:
            await app.work()
            app.ask("ACL", "SETUSER", "cache_service", "resetpass", f">{new}")
            app.ask("CLIENT", "KILL", "USER", "cache_service")
            await asyncio.sleep(0.05)
            assert await cache.get("ai_cache:k0") is None
            assert await cache.get("ai_cache:k0") is None
            assert cache.error_counts["authentication"] >= 1
            app.write(new)
            cache._next_look = 0.0
            assert await cache.get("ai_cache:k0") == "ai_cache:k0"

    with closing(app):
        asyncio.run(work())


def test_every_server_of_a_cluster_hears_of_it(files: Files, tmp_path: Path) -> None:
    """The new password is used on each server that is connected, and no call fails."""
    with cluster_of(files, tmp_path / "cluster") as cluster:
        new = generate_password()
        app = App(cluster.servers, tmp_path / "cache.env", cluster.settings, client="cluster")

        async def work() -> None:
            async with app.cache as cache:
                await app.work()
                before = app.sessions()
                assert len(before) == len(cluster.servers)
                app.ask("ACL", "SETUSER", "cache_service", f">{new}")
                app.ask("CONFIG", "RESETSTAT")
                app.write(new)
                cache._next_look = 0.0
                assert await app.until(lambda: cache.security_monitor.count("auth_attempt", success=True) == 2)
                assert app.sessions() == before
                assert app.logins() == [1] * len(cluster.servers)
                assert sum(cache.error_counts.values()) == 0

        with closing(app):
            asyncio.run(work())
