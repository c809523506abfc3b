"""The `CacheClient` on redis-py's connections: the choice where the multiplexed transport does not fit.

Only redis-py's connection is used, not its client: a pool of our own takes no lock, makes no task for a timeout, and never hands
out a connection on which a reply may still be under way.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import redis.exceptions as refused

from redkeep.access.client import Argument, Command
from redkeep.access.connection import NONSENSE, TIMEOUT_SECONDS, classify, explain, new_client
from redkeep.access.dial import Credentials, credentials_of
from redkeep.access.forks import cut_off, part_at_fork
from redkeep.access.sentinel import Primary
from redkeep.errors import ConfigurationError, RedkeepError, ServerUnavailableError
from redkeep.settings import Settings
from redkeep.target import Target

MAX_CONNECTIONS: Final = 64
MAX_WAITING: Final = 10_000
"""Callers that may wait for a connection; one more fails at once instead of piling up behind a frozen server."""


class RedisPyClient:
    """Commands over a pool of redis-py connections, each with a deadline. For one event loop."""

    def __init__(
        self,
        settings: Settings | Target,
        *,
        timeout: float = TIMEOUT_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        max_age: float = 0,
        credentials: Credentials | None = None,
        primary: Primary | None = None,
    ) -> None:
        """Connects to nothing yet. `timeout` in seconds for connecting and for each reply; connections older than `max_age`
        seconds are replaced (0: never). `credentials` is asked at each connect instead of the settings, and so is `primary` for
        the server's address.

        Raises ConfigurationError and CertificateError for settings and files that cannot be used.
        """
        self._target = settings if isinstance(settings, Target) else settings.target
        self._client = new_client(self._target, timeout=timeout, max_connections=max_connections)
        said = dict(parse_qsl(self._target.address.query)).get("socket_timeout")
        self._timeout = float(said) if said else timeout  # new_client has refused what is no number
        self._max_age = max_age
        self._credentials = credentials or credentials_of(self._target)
        self._primary = primary
        self._idle: list[Any] = []
        self._max_connections = self._free = max_connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._born: dict[Any, float] = {}
        self._not_before = 0.0
        self._closed = False
        part_at_fork(self)

    async def execute(self, *command: Argument) -> Any:
        """One command, one reply."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._enter()
                try:
                    return await self._run(command)
                finally:
                    self._leave()
        except TimeoutError:
            raise ServerUnavailableError(f"{self._where}: no answer within {self._timeout:g} s") from None

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one round trip; a command's own error stands in its place."""
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout):
                await self._enter()
                try:
                    return await self._run_many(commands)
                finally:
                    self._leave()
        except TimeoutError:
            raise ServerUnavailableError(f"{self._where}: no answer within {self._timeout:g} s") from None

    async def reauthenticate(self) -> None:
        """Make a connection with the credentials of this moment; once it is there, older ones are replaced: idle ones now, those in
        use when they are free.

        Raises AuthenticationError when they are refused; older connections then stay.
        """
        if not self._born or self._loop is not asyncio.get_running_loop() or self._process != os.getpid():
            return  # the next call connects anew, with what is then valid
        try:
            async with asyncio.timeout(self._timeout):
                await self._enter()
                try:
                    began = time.monotonic()
                    fresh = await self._connect()
                finally:
                    self._leave()
        except TimeoutError:
            raise ServerUnavailableError(f"{self._where}: no answer within {self._timeout:g} s") from None
        former, self._idle, self._not_before = self._idle, [fresh], began
        for connection in former:
            await self._discard(connection)

    async def close(self) -> None:
        """End all connections; a second call is idle."""
        self._closed = True
        if self._loop is asyncio.get_running_loop() and self._process == os.getpid():
            for connection in list(self._born):
                await self._discard(connection)
        self._idle, self._born = [], {}

    def leave_to_parent(self) -> None:
        """In a forked child: leave its parent's connections alone, which redis-py ends once they are garbage, and make others."""
        for connection in self._born:
            if connection.is_connected:
                cut_off(connection._writer.get_extra_info("socket").fileno())
        self._loop, self._idle, self._born = None, [], {}

    @property
    def connected(self) -> bool:
        """Whether a connection is up and logged in."""
        return any(connection.is_connected for connection in self._born)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._born)

    async def _run(self, command: Command) -> Any:
        connection = await self._take()
        try:
            await connection.send_packed_command(connection.pack_command(*command), check_health=False)
            reply = await connection.read_response()
        except refused.ResponseError as error:
            await self._give_back(connection, error)
            raise self._reply_error(error) from None
        except (UnicodeEncodeError, refused.DataError):
            await self._discard(connection)
            raise _unpackable() from None
        except (refused.RedisError, *NONSENSE) as error:
            await self._lose(connection)
            raise classify(error, self._target) from error
        except BaseException:  # a reply may still be under way: nobody may use this connection again
            await self._discard(connection)
            raise
        self._idle.append(connection)
        return reply

    async def _run_many(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._take()
        replies: list[Any] = []
        last: refused.ResponseError | None = None
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disconnect_on_error=False))
                except refused.ResponseError as error:
                    last = error
                    replies.append(self._reply_error(error))
        except (UnicodeEncodeError, refused.DataError):
            await self._discard(connection)
            raise _unpackable() from None
        except (refused.RedisError, *NONSENSE) as error:
            await self._lose(connection)
            raise classify(error, self._target) from error
        except BaseException:
            await self._discard(connection)
            raise
        await self._give_back(connection, last)
        return replies

    async def _give_back(self, connection: Any, error: refused.ResponseError | None) -> None:
        """A whole connection, unless its server is no primary any more and another one is to be found."""
        if self._primary is not None and isinstance(error, refused.ReadOnlyError):
            await self._lose(connection)
        else:
            self._idle.append(connection)

    async def _enter(self) -> None:
        if self._closed:
            raise ServerUnavailableError(f"{self._where}: this client is closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        if self._free > 0:
            self._free -= 1
            return
        if len(self._waiting) >= MAX_WAITING:
            raise ServerUnavailableError(f"{self._where}: too many commands are already waiting")
        turn = loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave()  # the turn came, and nobody takes it
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew in another event loop, as after `asyncio.run` or a fork; what belongs to the other loop is left alone."""
        if self._loop is not None and self._loop.is_running() and self._process == os.getpid():
            raise ConfigurationError("this client belongs to another event loop that is running; create one client per loop")
        self._loop, self._process = loop, os.getpid()
        self._idle, self._born, self._waiting, self._free = [], {}, deque(), self._max_connections

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            born = self._born[connection]
            young = born >= self._not_before and (not self._max_age or time.monotonic() - born < self._max_age)
            if young and connection.is_connected and not await connection.can_read():  # readable when idle: gone, or dirty
                return connection
            await self._discard(connection)
        return await self._connect()

    async def _connect(self) -> Any:
        pool = self._client.connection_pool
        pool.connection_kwargs["username"], pool.connection_kwargs["password"] = self._credentials()
        if self._primary is not None:
            pool.connection_kwargs["host"], pool.connection_kwargs["port"] = await self._primary.find()
        fresh: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await fresh.connect()
        except Exception as error:
            await fresh.disconnect(nowait=True)
            if self._primary is not None:
                self._primary.forget()
            raise await explain(error, self._target, timeout=self._timeout) from error
        except BaseException:
            await fresh.disconnect(nowait=True)
            raise
        fresh.socket_timeout = None  # from now on the deadline of each call is enough
        self._born[fresh] = time.monotonic()
        return fresh

    async def _lose(self, connection: Any) -> None:
        """Drop `connection` and the idle ones: they were made to the server that has just gone."""
        if self._primary is not None:
            self._primary.forget()
        idle, self._idle = self._idle, []
        for each in (connection, *idle):
            await self._discard(each)

    async def _discard(self, connection: Any) -> None:
        self._born.pop(connection, None)
        await connection.disconnect(nowait=True)

    def _reply_error(self, error: refused.ResponseError) -> RedkeepError:
        word = str(error).partition(" ")[0]
        if type(error) is refused.ResponseError and not word.isupper():
            word = "ERR"  # redis-py takes that word away
        if word in ("ERR", "WRONGTYPE"):
            return ConfigurationError(f"{self._where}: the server rejects the command ({word}); correct it")
        return classify(error, self._target)

    @property
    def _where(self) -> str:
        return f"{self._target.host}:{self._target.port}"


def _unpackable() -> ConfigurationError:
    return ConfigurationError("an argument of the command is not bytes, text or a number, or contains lone surrogates; encode it first")
