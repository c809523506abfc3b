"""The way into Redis with redis-py: verified when it is handed out, and with errors that say what is wrong.

TLS comes from one shared context (our CA alone, the name checked), credentials go as arguments and never into a URL, and
nothing retries a refused login: a retry would look like guessing in the server's ACL LOG.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

import redis.exceptions as refused
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from redkeep.access.tls import SharedContext, alert_after_handshake, client_context
from redkeep.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    RedkeepError,
    ServerUnavailableError,
    TLSError,
)
from redkeep.settings import Settings
from redkeep.target import Target

TIMEOUT_SECONDS: Final = 5.0
"""For connecting and for each reply, as the old class had it."""

_CANNOT_CONNECT: Final = "cannot connect"
"""What an error says for which the server's TLS alert may be the reason."""


class TLSConnection(Connection):
    """A connection whose TLS comes from a `SharedContext`, not from redis-py's, which trusts every system CA."""

    def __init__(self, *, contexts: SharedContext, **options: Any) -> None:
        self._contexts = contexts
        super().__init__(**options)

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._contexts.get()}


async def connect(
    settings: Settings | Target, *, timeout: float = TIMEOUT_SECONDS, max_connections: int = 64
) -> Redis:
    """A client whose server has answered PING: name and chain held, and the user is logged in. Close it with `aclose`.

    `timeout` is in seconds, for connecting and for each reply. Options in the URL's query override both numbers.
    Raises AuthenticationError, PermissionDeniedError, TLSError, ServerUnavailableError, or, when the settings or their
    files cannot be used, ConfigurationError and CertificateError: each only for what its name says.
    """
    target = settings if isinstance(settings, Target) else settings.target
    client = new_client(target, timeout=timeout, max_connections=max_connections)
    try:
        await client.ping()
    except BaseException as error:
        await client.aclose()
        if not isinstance(error, Exception):
            raise
        raise await explain(error, target, timeout=timeout) from error
    return client


async def explain(error: Exception, target: Target, *, timeout: float) -> RedkeepError:
    """Like `classify`, for a connection that failed while it was made: the server's TLS alert may have been lost, so look again."""
    ours = classify(error, target)
    if target.tls and type(ours) is ServerUnavailableError and _CANNOT_CONNECT in str(ours):
        alert = await asyncio.to_thread(_alert, target, timeout)
        ours = classify(alert, target) if alert else ours
    return ours


def new_client(
    target: Target, *, timeout: float = TIMEOUT_SECONDS, max_connections: int = 64
) -> Redis:
    """A client that has not connected yet; `connect` is the safer call. Replies are bytes.

    Raises ConfigurationError and CertificateError for settings and files that cannot be used.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": max_connections,
        "protocol": 2,
    }
    options |= parse_url(target.address.url(tls=False))
    options |= {
        "username": target.username,
        "password": target.password,
        "retry": Retry(NoBackoff(), 0),
        # a Redis Enterprise feature; on other servers its handshake is a refused command at each connect
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if target.tls:
        options |= {"connection_class": TLSConnection, "contexts": SharedContext(target)}
    try:
        return Redis.from_pool(ConnectionPool(**options))
    except (TypeError, ValueError, refused.RedisError):
        raise ConfigurationError("REDIS_URL has a query option with an unusable value; correct it") from None


def classify(error: Exception, target: Target) -> RedkeepError:
    """The error of ours that says what happened. DNS, refused ports and timeouts are never a refused login."""
    if isinstance(error, RedkeepError):
        return error
    where, who = f"{target.host}:{target.port}", target.username or "default"
    causes = list(_causes(error))
    text = str(error)
    if any(isinstance(cause, refused.NoPermissionError) for cause in causes) or text.startswith("NOPERM"):
        return PermissionDeniedError(f"{where}: the ACL refuses this to user {who}; see `redkeep status`")
    if any(isinstance(cause, refused.AuthenticationError) for cause in causes) or "NOAUTH" in text:
        return AuthenticationError(
            f"{where}: the login of user {who} was refused; compare REDIS_USERNAME and its password with the server's"
        )
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TLSError(
                f"{where}: the server's certificate is not valid ({cause.verify_message}); check REDIS_TLS_CA_FILE"
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            reason = (cause.reason or "handshake failed").lower().replace("_", " ")
            return TLSError(f"{where}: the TLS handshake failed ({reason}); check the client certificate and REDIS_TLS_MIN_VERSION")
        if isinstance(cause, socket.gaierror):
            return ServerUnavailableError(f"{target.host}: the name cannot be resolved; check REDIS_URL and DNS")
    if any(isinstance(cause, TimeoutError | refused.TimeoutError) for cause in causes):
        return ServerUnavailableError(f"{where}: no answer in time; check that Redis runs and that no firewall blocks it")
    if isinstance(error, refused.ResponseError):
        word = "READONLY" if isinstance(error, refused.ReadOnlyError) else text.partition(" ")[0]  # redis-py takes that word away
        return ServerUnavailableError(f"{where}: the server cannot serve requests now ({word})")
    return ServerUnavailableError(f"{where}: {_CANNOT_CONNECT}; check that Redis runs and listens there")


def _alert(target: Target, timeout: float) -> ssl.SSLError | None:
    """Why a connection broke off before its first reply: the server's TLS alert, when that is the reason."""
    try:
        with socket.create_connection((target.host, target.port), timeout=timeout) as plain:
            context = client_context(target)
            with context.wrap_socket(plain, server_hostname=target.host) as connection:
                return alert_after_handshake(connection, timeout=min(timeout, 0.5))
    except (OSError, RedkeepError):
        return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
