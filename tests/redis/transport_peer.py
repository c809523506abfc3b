"""What stands between or instead of a server in the transport's tests: a TCP proxy, and a peer that says what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redkeep.target import Target, build_target

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
"""A login that succeeded, as short as RESP3 allows."""

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Proxy:
    """Forwards to a server on loopback, and breaks connections on demand."""

    port: int = 0
    chunk: int = 65_536
    accepted: int = 0
    swallowed: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> int:
        """Reset every connection at once; returns how many there were."""
        for writer in self.writers:
            writer.transport.abort()
        return len(self.writers)

    def swallow(self) -> None:
        """From now on hand on nothing over the connections there are, and end none: the other host has vanished."""
        self.swallowed = self.accepted


@asynccontextmanager
async def proxy(server_port: int, *, chunk: int = 65_536) -> AsyncIterator[Proxy]:
    """A proxy that hands on at most `chunk` bytes at a time."""
    made = Proxy(chunk=chunk)

    async def pump(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if number <= made.swallowed:
                    continue
                for start in range(0, len(data), made.chunk):
                    writer.write(data[start : start + made.chunk])
                    if made.chunk < len(data):
                        await asyncio.sleep(0)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.accepted += 1
        number = made.accepted
        with contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", server_port)
            made.writers |= {writer, up_writer}
            await asyncio.gather(pump(number, reader, up_writer), pump(number, up_reader, writer))
            made.writers -= {writer, up_writer}
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        made.cut()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[Target]:
    """A plaintext peer that follows `script` on each connection; yields its target."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled: the test is over
            await script(reader, writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield build_target(environment="development", redis_url=f"redis://127.0.0.1:{port}/0")
    finally:
        listening.close()


def says(*answers: bytes, stay: bool = True, login: bytes = HELLO) -> Script:
    """A script: log in, then for each thing that arrives one answer, as it stands; then wait, or hang up."""

    async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (login, *answers):
            if not await reader.read(65_536):
                return
            writer.write(answer)
            await writer.drain()
        while stay and await reader.read(65_536):
            pass

    return follow
