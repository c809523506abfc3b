"""The connection for one caller alone: WATCH holds, an error stands in its place, and nothing is ever sent twice."""

from __future__ import annotations

import asyncio

import pytest

from redkeep.access.exclusive import ExclusiveConnection
from redkeep.access.limits import Limits
from redkeep.errors import AuthenticationError, ConfigurationError, PermissionDeniedError, ServerUnavailableError
from tests.redis.server import Server


def test_a_watched_key_that_changes_voids_the_transaction(server: Server) -> None:
    """EXEC answers None, and the value of the other writer stays; without a change it is done."""

    async def work() -> None:
        one, other = [await ExclusiveConnection.open(server.target()) for _ in range(2)]
        await one.execute("SET", "ai_cache:w", "1", "PX", 5000)
        for change in (True, False):
            await one.execute_many([("WATCH", "ai_cache:w"), ("GET", "ai_cache:w")])
            if change:
                await other.execute("SET", "ai_cache:w", "2", "PX", 5000)
            *_, done = await one.execute_many([("MULTI",), ("SET", "ai_cache:w", "3", "PX", 5000), ("EXEC",)])
            assert (done is None) is change
            assert await other.execute("GET", "ai_cache:w") == (b"2" if change else b"3")
        for each in (one, other):
            await each.close()
            await each.close()

    asyncio.run(work())


def test_errors_stand_in_their_places(server: Server) -> None:
    """What the server refuses is an error among the replies, or raised where it is the only one; the connection goes on."""

    async def work() -> None:
        alone = await ExclusiveConnection.open(server.target())
        first, second = await alone.execute_many([("FLUSHALL",), ("PING",)])
        assert isinstance(first, PermissionDeniedError)
        assert second == b"PONG"
        with pytest.raises(PermissionDeniedError):
            await alone.execute("WATCH", "other:key")
        with pytest.raises(ConfigurationError, match="arguments must be"):
            await alone.execute("GET", None)  # type: ignore[arg-type]
        assert await alone.execute_many([]) == []
        assert await alone.execute("PING") == b"PONG"
        await alone.close()

    asyncio.run(work())


def test_a_lost_connection_is_over(server: Server) -> None:
    """Ended by the server or overdue: an error now and with every later call, and no second attempt."""

    async def work() -> None:
        alone = await ExclusiveConnection.open(server.target())
        with server.log_in() as operator:
            operator.ask(("CLIENT", "KILL", "USER", "cache_service"))
        for _ in range(2):
            with pytest.raises(ServerUnavailableError):
                await alone.execute("PING")
        slow = await ExclusiveConnection.open(server.target(), limits=Limits(seconds=0.2))
        with server.log_in() as operator:
            operator.ask(("CLIENT", "PAUSE", "1000"))
            with pytest.raises(ServerUnavailableError, match="no answer in time"):
                await slow.execute("PING")
            operator.ask(("CLIENT", "UNPAUSE"))
        with pytest.raises(ServerUnavailableError, match="the connection is closed"):
            await slow.execute("PING")

    asyncio.run(work())


def test_a_refused_login(server: Server) -> None:
    """A wrong password is told as such."""

    async def work() -> None:
        with pytest.raises(AuthenticationError):
            await ExclusiveConnection.open(server.target()._replace(password=server.passwords["backup"]))

    asyncio.run(work())
