"""What goes out together: the commands of one event-loop turn, and of callers whom one answer in parts has woken."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from redkeep.access.limits import Limits
from redkeep.access.transport import Transport
from redkeep.access.wire_protocol import WireProtocol
from redkeep.target import Target, build_target
from tests.redis.transport_peer import HELLO, peer

GET, VALUE = b"*2\r\n$3\r\nGET\r\n", b"$1\r\na\r\n"
CALLERS = 8
PART_SECONDS = 0.05


def in_parts(connection: socket.socket) -> None:
    """Log in, then answer half of what comes, and a while later the other half, until the other side hangs up."""
    connection.recv(65_536)
    connection.sendall(HELLO)
    while data := connection.recv(65_536):
        count = data.count(GET)
        for part in (count // 2, count - count // 2):
            time.sleep(PART_SECONDS)
            connection.sendall(VALUE * part)


@contextmanager
def listening(follow: Callable[[socket.socket], None]) -> Iterator[Target]:
    """One connection on loopback for `follow`, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            connection, _ = door.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                follow(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield build_target(environment="development", redis_url=f"redis://127.0.0.1:{door.getsockname()[1]}/0")
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many GETs each write had, the login's first."""
    counts: list[int] = []
    write = WireProtocol.write

    def counted(wire: WireProtocol, data: bytes) -> None:
        counts.append(data.count(GET))
        write(wire, data)

    monkeypatch.setattr(WireProtocol, "write", counted)
    return counts


async def ask(target: Target, *, times: int, callers: int = CALLERS, busy: float = 0.0) -> None:
    """Callers that ask again as soon as they are answered; the first one then works for `busy` seconds, once."""
    async with Transport(target, limits=Limits(seconds=5.0)) as transport:

        async def caller(number: int) -> None:
            for turn in range(times):
                assert await transport.execute("GET", f"ai_cache:{number}") == b"a"
                if number == 0 and not turn:
                    time.sleep(busy)

        await asyncio.gather(*map(caller, range(callers)))


def test_callers_woken_by_parts_of_one_answer_ask_together_again(written: list[int]) -> None:
    """Where the second part came while the first was worked on, its callers' next commands go out with the others', in one write."""
    with listening(in_parts) as target:
        asyncio.run(ask(target, times=2, busy=PART_SECONDS * 3))
    assert written == [0, CALLERS, CALLERS]


def test_nobody_is_taken_for_a_lone_caller_beside_others(written: list[int]) -> None:
    """After one command went out alone, the first of many who are answered together does not go ahead of them."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(HELLO)
        for come, answered in ((CALLERS, CALLERS - 1), (CALLERS - 1, 1), (1, CALLERS), (CALLERS, CALLERS)):
            data = b""
            while data.count(GET) < come:
                data += await reader.read(65_536)
            writer.write(VALUE * answered)

    async def main() -> None:
        async with peer(script) as target:
            await ask(target, times=3)

    asyncio.run(main())
    assert written == [0, CALLERS, CALLERS - 1, 1, CALLERS]


def test_many_commands_do_not_wait_for_the_end_of_the_turn(written: list[int]) -> None:
    """What 40 callers ask in one turn goes out in parts, so that the server is at work while the others are still woken."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(HELLO)
        data = b""
        while data.count(GET) < 80:
            data += await reader.read(65_536)
            if data.count(GET) in (40, 80):
                writer.write(VALUE * 40)

    async def main() -> None:
        async with peer(script) as target:
            await ask(target, times=2, callers=40)

    asyncio.run(main())
    assert written == [0, 40, 12, 12, 12, 4]


def test_what_waits_for_others_goes_soon() -> None:
    """While an answer is outstanding that does not come, other commands are sent all the same, in a few turns of the loop."""
    received = threading.Event()

    def follow(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(HELLO)
        seen = 0
        while data := connection.recv(65_536):
            seen += data.count(GET)
            if seen == 3:
                received.set()
                connection.sendall(VALUE * seen)

    async def main(target: Target) -> None:
        async with Transport(target, limits=Limits(seconds=5.0)) as transport:
            first = asyncio.create_task(transport.execute("GET", "ai_cache:first"))
            await asyncio.sleep(PART_SECONDS)
            others = [asyncio.create_task(transport.execute("GET", f"ai_cache:{number}")) for number in range(2)]
            assert await asyncio.to_thread(received.wait, 2)
            assert await asyncio.gather(first, *others) == [b"a"] * 3

    with listening(follow) as target:
        asyncio.run(main(target))
