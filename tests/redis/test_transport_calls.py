"""The transport against a real, hardened server: replies, errors, batches, deadlines and bounds."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from redkeep.access.limits import Limits
from redkeep.access.transport import Transport
from redkeep.errors import (
    ConfigurationError,
    PermissionDeniedError,
    ServerUnavailableError,
)
from tests.redis.server import Server


def connections(server: Server) -> list[str]:
    """The server's clients that the transport made."""
    with server.log_in() as operator:
        lines = str(operator.ask(("CLIENT", "LIST"))[0], "utf-8").splitlines()  # type: ignore[arg-type]
    return [line for line in lines if " name=redkeep " in line]


def run(server: Server, work: Callable[[Transport], Any], **options: Any) -> Any:
    """Run a coroutine function with a transport to the server."""

    async def main() -> Any:
        async with Transport(server.target(), **options) as transport:
            return await work(transport)

    return asyncio.run(main())


def test_a_value_goes_there_and_back(server: Server) -> None:
    """Bytes come back as they went, nil is None, integers are int, and one connection in RESP3 carried it all."""

    async def work(transport: Transport) -> list[Any]:
        assert not transport.connected
        blob = bytes(range(256))
        return [
            await transport.execute("SET", "ai_cache:v", blob, "EX", 60) == b"OK",
            await transport.execute("GET", "ai_cache:v") == blob,
            await transport.execute("GET", "ai_cache:none"),
            await transport.execute("UNLINK", b"ai_cache:v", "ai_cache:none"),
            await transport.execute_many([]),
            [line.split(" resp=")[1][0] for line in connections(server)],
            transport.connected,
        ]

    assert run(server, work) == [True, True, None, 1, [], ["3"], True]


def test_first_calls_share_one_connection(server: Server) -> None:
    """Two hundred calls at once on a new transport wait for one login and get each its own value."""

    async def work(transport: Transport) -> tuple[list[Any], int]:
        await asyncio.gather(*(transport.execute("SET", f"ai_cache:{n}", str(n), "EX", 60) for n in range(200)))
        return await asyncio.gather(*(transport.execute("GET", f"ai_cache:{n}") for n in range(200))), len(connections(server))

    assert run(server, work) == ([str(n).encode() for n in range(200)], 1)


def test_using_it_leaves_no_trace_in_acl_log(server: Server) -> None:
    """Login, calls and close are refused nothing."""

    async def work(transport: Transport) -> None:
        await transport.execute("GET", "ai_cache:a")

    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        run(server, work)
        assert operator.ask(("ACL", "LOG")) == [[]]


def test_errors_have_their_leaf_and_shift_nothing(server: Server) -> None:
    """A refused key, a wrong command and a wrong type fail for themselves; the calls around them are served."""

    async def work(transport: Transport) -> list[Any]:
        await transport.execute("SET", "ai_cache:s", "text", "EX", 60)
        calls = (("GET", "other:key"), ("GET", "ai_cache:s"), ("FLUSHALL",), ("EXPIRE", "ai_cache:s", "x"), ("GET", "ai_cache:s"))
        return await asyncio.gather(*(transport.execute(*call) for call in calls), return_exceptions=True)

    other, first, flush, expire, last = run(server, work)
    assert (first, last) == (b"text", b"text")
    assert [type(error) for error in (other, flush, expire)] == [PermissionDeniedError, PermissionDeniedError, ConfigurationError]
    assert "cache_service" in str(other)
    assert "other:key" not in str(other)


def test_a_batch_keeps_its_order_and_its_errors(server: Server) -> None:
    """Replies stand where their commands stood; an error is a value; MULTI and EXEC are one."""

    async def work(transport: Transport) -> list[Any]:
        await transport.execute("SET", "ai_cache:b", "1", "EX", 60)
        batch = [("GET", "ai_cache:b"), ("GET", "elsewhere"), ("MGET", "ai_cache:b", "ai_cache:no"), ("MULTI",)]
        both = await asyncio.gather(
            transport.execute_many([*batch, ("GET", "ai_cache:b"), ("EXEC",)]), transport.execute("GET", "ai_cache:b")
        )
        return [*both[0], both[1]]

    got = run(server, work)
    assert isinstance(got[1], PermissionDeniedError)
    assert [got[0], *got[2:]] == [b"1", [b"1", None], b"OK", b"QUEUED", [b"1"], b"1"]


def test_many_commands_are_one_round_trip(server: Server) -> None:
    """A batch of 500 is sent in one write: the server reads it in few turns and answers in order."""

    async def work(transport: Transport) -> list[Any]:
        await transport.execute_many([("SET", f"ai_cache:m{n}", str(n), "EX", "60") for n in range(500)])
        return await transport.execute_many([("GET", f"ai_cache:m{n}") for n in range(500)])

    assert run(server, work) == [str(n).encode() for n in range(500)]


@pytest.mark.parametrize(
    "command", [(), (None,), ("GET", None), ("GET", ["a"]), ("SET", "ai_cache:a", True), ("GET", "\ud800"), (bytearray(b"GET"),)]
)
def test_what_cannot_be_packed_is_a_configuration_error(server: Server, command: tuple[Any, ...]) -> None:
    """A wrong argument is named as such before anything is sent, alone and in a batch, and its value is not shown."""

    async def work(transport: Transport) -> None:
        for call in (transport.execute(*command), transport.execute_many([("GET", "ai_cache:a"), command])):
            with pytest.raises(ConfigurationError, match="must be bytes, str, int or float"):
                await call
        assert transport.in_flight == (0, 0)

    run(server, work)


@pytest.mark.parametrize("command", [("MULTI",), ("select", 1), (b"SUBSCRIBE", "c"), ("Client", "REPLY", "OFF"), ("BLPOP", "a")])
def test_what_would_change_the_connection_is_refused(server: Server, command: tuple[Any, ...]) -> None:
    """A command that would take the connection from the other callers is not sent, in no spelling."""

    async def work(transport: Transport) -> None:
        with pytest.raises(ConfigurationError, match="callers share"):
            await transport.execute(*command)

    run(server, work)


def test_large_values_take_the_second_connection(server: Server) -> None:
    """A value over 256 KB goes on a connection of its own, opened for it; smaller ones never open it."""

    async def work(transport: Transport) -> list[int]:
        counts = []
        for size in (250_000, 300_000, 5_000_000):
            blob = os.urandom(size)
            await transport.execute("SET", "ai_cache:large", blob, "EX", 60)
            assert await transport.execute("GET", "ai_cache:large") == blob
            counts.append(len(connections(server)))
        await transport.execute_many([("SET", "ai_cache:large", blob, "EX", 60), ("UNLINK", "ai_cache:large")])
        return counts

    assert run(server, work) == [1, 2, 2]


def test_a_deadline_is_kept_and_the_late_reply_reaches_nobody(start: Callable[..., Server]) -> None:
    """While the server is stopped each caller hears at its own deadline; replies that come later are not given to others."""
    server = start()

    async def main() -> list[float]:
        async with Transport(server.target(), limits=Limits(seconds=0.3, stall_seconds=30)) as transport:
            for number in range(20):
                await transport.execute("SET", f"ai_cache:{number}", str(number), "EX", 60)
            os.kill(server.process.pid, signal.SIGSTOP)

            async def late(number: int) -> float:
                await asyncio.sleep(number / 100)
                began = time.monotonic()
                with pytest.raises(ServerUnavailableError, match=r"no answer within 0\.3 seconds"):
                    await transport.execute("GET", f"ai_cache:{number}")
                return time.monotonic() - began

            took = await asyncio.gather(*(late(number) for number in range(20)))
            os.kill(server.process.pid, signal.SIGCONT)
            for number in range(20):
                assert await transport.execute("GET", f"ai_cache:{number}") == str(number).encode()
            assert transport.in_flight == (0, 0)
            return took

    took = asyncio.run(main())
    assert min(took) >= 0.3
    assert statistics.median(took) < 1.0


def test_too_much_in_flight_fails_at_once(start: Callable[..., Server]) -> None:
    """Over the bound of commands or of bytes a call fails in no time, and what was taken is served when the server goes on."""
    server = start()

    async def main() -> None:
        limits = Limits(commands_in_flight=50, bytes_in_flight=200_000)
        async with Transport(server.target(), limits=limits) as transport:
            await transport.execute("PING")
            for value, admitted in (("x", 50), ("x" * 20_000, 9)):
                os.kill(server.process.pid, signal.SIGSTOP)
                calls = [
                    asyncio.create_task(transport.execute("SET", f"ai_cache:{n}", value, "EX", 60)) for n in range(admitted + 10)
                ]
                done, _ = await asyncio.wait(calls, timeout=0.1)
                os.kill(server.process.pid, signal.SIGCONT)
                assert len(done) == 10
                for call in done:
                    assert "too many requests in flight" in str(call.exception())
                    assert isinstance(call.exception(), ServerUnavailableError)
                await asyncio.gather(*calls, return_exceptions=True)
                assert sum(call.exception() is None for call in calls) == admitted
            with pytest.raises(ServerUnavailableError, match="too many requests in flight"):
                await transport.execute_many([("GET", "ai_cache:0")] * 51)
            assert transport.in_flight == (0, 0)

    asyncio.run(main())


def test_a_full_socket_holds_commands_back(start: Callable[..., Server]) -> None:
    """What the socket does not take waits, is written when it drains, and arrives whole and in order."""
    server = start()

    async def main() -> None:
        async with Transport(server.target(), limits=Limits(seconds=10, large_bytes=1 << 30)) as transport:
            await transport.execute("PING")
            os.kill(server.process.pid, signal.SIGSTOP)
            blob = os.urandom(500_000)
            calls = [asyncio.create_task(transport.execute("SET", f"ai_cache:{n}", blob + bytes([n]))) for n in range(40)]
            await asyncio.sleep(0.1)
            more = [asyncio.create_task(transport.execute("GET", f"ai_cache:{n}")) for n in range(40)]
            await asyncio.sleep(0.1)
            more[3].cancel()
            assert transport.in_flight[0] == 80
            os.kill(server.process.pid, signal.SIGCONT)
            assert await asyncio.gather(*calls) == [b"OK"] * 40
            got = await asyncio.gather(*more, return_exceptions=True)
            assert [value[-1] for n, value in enumerate(got) if n != 3] == [n for n in range(40) if n != 3]  # type: ignore[index]
            assert transport.in_flight == (0, 0)

    asyncio.run(main())
