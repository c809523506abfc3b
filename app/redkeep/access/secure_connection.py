"""Connections of redis-py for programs that speak to Redis themselves: the login and the TLS of the environment, and no less."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from redkeep.access.tls import client_context
from redkeep.crypto.passwords import validate_password
from redkeep.environment import collect
from redkeep.errors import ConfigurationError
from redkeep.target import FOR_THE_CACHE, Target, build_target

if TYPE_CHECKING:  # redis-py is loaded when somebody connects
    from redis.asyncio import Redis


class SecureRedisAuth:
    """A login, and connections that have it. The rest (TLS, its files, ENVIRONMENT) is the environment's."""

    def __init__(self, password: str | None = None, *, username: str | None = None) -> None:
        """Without `password`: REDIS_CACHE_PASSWORD as `cache_service`, else REDIS_PASSWORD, each also as a `..._FILE`.

        Raises ConfigurationError without a password, and for one that is too weak.
        """
        self._fields = _environment()
        if password is not None:
            validate_password(password, field="password")
            for given in ("redis_cache_password", "redis_password", "redis_username"):
                self._fields.pop(given, None)
            self._fields["redis_password"] = password
        if username is not None:
            self._fields["redis_username"] = username
        if not (self._fields.get("redis_cache_password") or self._fields.get("redis_password")):
            raise ConfigurationError("there is no password: set REDIS_CACHE_PASSWORD, or give SecureRedisAuth one")
        self._target("redis://localhost")  # what is wrong with the rest is said now

    async def create_authenticated_connection(self, redis_url: str) -> Redis:
        """A client that is logged in; the server has answered PING. Close it with `aclose`.

        The URL keeps its user, database and query; a second password in it is refused. Raises what `access.connection.connect` does.
        """
        from redkeep.access.connection import connect

        return await connect(self._target(redis_url))

    def _target(self, redis_url: str) -> Target:
        return build_target(**{**self._fields, "redis_url": redis_url})


class TLSRedisConnection:
    """Connections with TLS from the environment's CA alone, the server's name checked, and our certificate where there is one."""

    def __init__(self) -> None:
        """Raises ConfigurationError when REDIS_TLS_ENABLED is false and ENVIRONMENT is not development, and without a CA."""
        self._fields = _environment()
        self.ssl_enabled = bool(self._fields.get("redis_tls_enabled", True))
        if not self.ssl_enabled and self._fields.get("environment", "production") != "development":
            raise ConfigurationError("REDIS_TLS_ENABLED is false: remove it, or set ENVIRONMENT=development")
        self.create_ssl_context()

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """The context of a new connection; None where development has turned TLS off.

        Raises ConfigurationError and CertificateError for files that cannot be used.
        """
        return client_context(self._target("redis://localhost")) if self.ssl_enabled else None

    async def connect_securely(self, redis_url: str) -> Redis:
        """A client whose chain and name held, logged in where the environment has a password. Close it with `aclose`.

        `redis://` becomes `rediss://`. Raises what `access.connection.connect` does.
        """
        from redkeep.access.connection import connect

        return await connect(self._target(redis_url))

    def _target(self, redis_url: str) -> Target:
        return build_target(**{**self._fields, "redis_url": redis_url, "redis_tls_enabled": self.ssl_enabled})


def _environment(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The settings of the way to Redis. Raises ConfigurationError."""
    fields: dict[str, Any] = dict(collect(variables))
    for unneeded in (*FOR_THE_CACHE, "redis_url"):
        fields.pop(unneeded, None)
    return fields
