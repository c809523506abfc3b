"""The link to Redis: connected when first needed, behind a breaker, with every failure counted by its kind.

This and `CacheBase._read` and `_write` are the one place where the cache degrades: to a miss, never to less security.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from redkeep.access.failures import again
from redkeep.cache.breaker import Breaker
from redkeep.cache.interface import CacheInterface
from redkeep.errors import (
    AuthenticationError,
    CertificateError,
    DecryptionError,
    PermissionDeniedError,
    RedkeepError,
    ServerUnavailableError,
    TLSError,
)

if TYPE_CHECKING:
    from redkeep.access.client import Argument, CacheClient, Command

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 5.0
"""For connecting and for each reply, as the old class had it."""

_UNAVAILABLE: Final = "redis_connection_failed"
_REFUSALS: Final = (AuthenticationError, TLSError, CertificateError)
"""Errors that time alone does not mend; while connecting, a ConfigurationError is one too."""


class Link(CacheInterface):
    """What speaks to Redis; not for use by itself."""

    def __init__(self, redis_url: str, timeout: float) -> None:
        """Connects to nothing yet."""
        self.redis: CacheClient | None = None
        self.redis_url = redis_url
        self.timeout = timeout
        self._breaker = Breaker()
        self._opening: asyncio.Task[CacheClient] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.last_error: RedkeepError | None = None
        """What the last failure was; None while all is well."""
        self.error_counts: dict[str, int] = dict.fromkeys(
            ("server_unavailable", "authentication", "permission_denied", "tls", "decryption", "configuration"), 0
        )
        """Failures by kind: security errors are told apart from "Redis is down"."""

    async def connect(self) -> bool:
        """Connect unless it is done; True when Redis answers. Never raises: the reason is logged, counted and in `last_error`."""
        if self.redis is not None:
            return True
        try:
            await self._open()
        except RedkeepError as error:
            logger.warning("redis_not_connected", extra={"kind": type(error).__name__, "reason": str(error)})
            return False
        except ImportError:
            logger.warning("redis_library_missing")
            return False
        return True

    async def close(self) -> None:
        """End the connection, or the attempt to make one; a second call is idle. The next command connects again."""
        tasks = (self._opening, self._renewing)
        self._opening = self._renewing = None
        for task in tasks:
            if task is None or task.done():
                continue
            loop = task.get_loop()
            if loop is asyncio.get_running_loop():
                task.cancel()
                await asyncio.wait((task,))
            elif loop.is_running():  # in another thread
                loop.call_soon_threadsafe(task.cancel)
        client, self.redis = self.redis, None
        if client is not None:
            await client.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _new_client(self) -> CacheClient:
        from redkeep.access.redis_py import RedisPyClient
        from redkeep.cache.plain_target import plain_target

        return RedisPyClient(plain_target(self.redis_url), timeout=self.timeout)

    async def _open(self, *, instead_of: CacheClient | None = None) -> CacheClient:
        """One attempt for all who want one. It outlives a caller that is cancelled: where every deadline is shorter than a login,
        the next caller finds the connection made, and none is left behind."""
        task = self._opening
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = self._opening = asyncio.create_task(self._connection(instead_of), name="redkeep-open")
            task.add_done_callback(self._attempted)
        await asyncio.wait((task,))
        if task.cancelled():
            raise ServerUnavailableError("the cache was closed while it was connecting")
        error = task.exception()
        if isinstance(error, RedkeepError):
            raise again(error)
        return task.result()

    def _attempted(self, task: asyncio.Task[CacheClient]) -> None:
        if self._opening is task:
            self._opening = None
        if not task.cancelled():
            task.exception()  # seen: every caller may have been cancelled

    async def _connection(self, former: CacheClient | None) -> CacheClient:
        if former is not None:
            await former.close()
        client: CacheClient | None = None
        try:
            client = self._new_client()
            await client.execute("PING")
            await self._greeted(client)
        except BaseException as error:
            if isinstance(error, RedkeepError):
                self._note(error, connecting=True)
            if client is not None:
                await client.close()
            raise
        self.redis = client
        self._connected()
        self._logged_in()
        return client

    async def _greeted(self, client: CacheClient) -> None:
        """A hook: what a new client has to ask before it is used."""

    def _look_for_changes(self) -> None:
        """A hook: before an attempt is put off, what may have been mended."""

    def _login_has_changed(self) -> None:
        """Use the new credentials: at once where an attempt was put off, and on the connections that are up, beside their work."""
        self._breaker.reset()
        if self.redis is not None:
            with suppress(RuntimeError):  # no event loop runs here, and so no command: the next loop connects anew
                loop = asyncio.get_running_loop()
                self._renewing = loop.create_task(self._log_in_anew(self.redis), name="redkeep-login")

    async def _log_in_anew(self, client: CacheClient) -> None:
        try:
            await client.reauthenticate()
        except AuthenticationError as error:  # what is up stays logged in: this is no reason to stop
            self.error_counts[_kind(error)] += 1
            self._note_security(error)
        except RedkeepError as error:  # a connection that was lost logs in with what is valid then
            logger.info("login_left_to_the_next_connection", extra={"reason": str(error)})
        else:
            self._logged_in()

    def _logged_in(self) -> None:
        """A hook: a client was made, and the server let it in."""

    def _connected(self) -> None:
        self.last_error = None
        if self._breaker.success():
            logger.info("redis_answers_again")

    async def _reach(self) -> CacheClient:
        if not self._breaker.closed:
            self._look_for_changes()
        if self._breaker.allow():
            client = self.redis
            if client is not None and (client.connected or self._breaker.closed):
                return client
            if client is not None:  # begin anew: a client of its own patience would add its delay to the breaker's
                self.redis = None
            try:
                return await self._open(instead_of=client)
            except ImportError:
                raise ServerUnavailableError("the package redis is not installed; run `pip install redis`") from None
        raise ServerUnavailableError("Redis did not answer a moment ago; the cache will try again shortly")

    async def _execute(self, *command: Argument) -> Any:
        client = self.redis
        if client is None or not self._breaker.closed:
            client = await self._reach()
        try:
            reply = await client.execute(*command)
        except RedkeepError as error:
            self._note(error)
            raise
        if self._breaker.failures:
            self._connected()
        return reply

    async def _execute_many(self, commands: list[Command]) -> list[Any]:
        """Replies in order. Raises the first error among them, too: a batch is done or it is not."""
        client = self.redis
        if client is None or not self._breaker.closed:
            client = await self._reach()
        try:
            replies = await client.execute_many(commands)
            for reply in replies:
                if isinstance(reply, RedkeepError):
                    raise reply
        except RedkeepError as error:
            self._note(error)
            raise
        if self._breaker.failures:
            self._connected()
        return replies

    def _note(self, error: RedkeepError, *, connecting: bool = False) -> None:
        """Count a failure by its kind and tell the breaker."""
        self.last_error = error
        self.error_counts[_kind(error)] += 1
        if isinstance(error, ServerUnavailableError):
            if self._breaker.failure(connecting=connecting):
                logger.warning("redis_unavailable", extra={"reason": str(error)})
            return
        if isinstance(error, _REFUSALS) or (connecting and not isinstance(error, DecryptionError)):
            self._breaker.failure(refused=True)
        self._note_security(error)

    def _note_security(self, error: RedkeepError) -> None:
        """A hook: what failed has to do with security."""
        logger.error("redis_refused", extra={"kind": type(error).__name__, "reason": str(error)})


def reason_of(error: RedkeepError) -> str:
    """Why something was a miss or was dropped, in a word for the records."""
    return _UNAVAILABLE if isinstance(error, ServerUnavailableError) else _kind(error)


def _kind(error: RedkeepError) -> str:
    for leaf, kind in (
        (ServerUnavailableError, "server_unavailable"), (AuthenticationError, "authentication"),
        (PermissionDeniedError, "permission_denied"), (TLSError, "tls"), (CertificateError, "tls"),
        (DecryptionError, "decryption"),
    ):
        if isinstance(error, leaf):
            return kind
    return "configuration"
