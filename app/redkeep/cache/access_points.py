"""The ways into Redis that a secure cache has: its own user, and, where their passwords are known, janitor and health user."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from redkeep.access.tls import stamp
from redkeep.cache.plain_target import tls_files
from redkeep.environment import collect
from redkeep.errors import ConfigurationError
from redkeep.target import DEFAULT_CLIENT, DEFAULT_USERNAME, FOR_THE_CACHE, Target, build_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redkeep.access.client import CacheClient
    from redkeep.access.sentinel import Primary
    from redkeep.optimization import SecurityOptimizationConfig
    from redkeep.settings import Settings

logger = logging.getLogger(__name__)

CLIENTS = ("transport", "redis-py", "sentinel", "cluster")
JANITOR = "cache_janitor"
REPORTER = "health_service"


class Changes(NamedTuple):
    """What the settings' files have now and had not before: encryption keys, if others, and whether the login is another."""

    keys: tuple[str, ...] = ()
    login: bool = False


class Access:
    """One validated configuration, and the clients that it allows."""

    def __init__(
        self, target: Target, *, fields: Mapping[str, Any], tuned: SecurityOptimizationConfig, settings: Settings | None
    ) -> None:
        """`fields` are the settings of FOR_THE_CACHE. Raises ConfigurationError."""
        self.target = target
        self.tracking = bool(fields.get("redis_client_tracking"))
        self._fields = fields
        self._client = str(fields.get("redis_client", DEFAULT_CLIENT))
        if self._client not in CLIENTS:
            raise ConfigurationError(f"REDIS_CLIENT must be one of {', '.join(CLIENTS)}")
        if self.tracking and self._client != "transport":
            raise ConfigurationError("REDIS_CLIENT_TRACKING needs REDIS_CLIENT=transport; no other client is told of changes")
        self._primary()  # what is wrong with its settings is said now
        self._tuned = tuned
        self._settings = settings
        self._keys = target.keys
        self._last = target
        self._login = (target.username, target.password)
        self._files = () if settings is None else settings.files()
        self._seen = tuple(map(stamp, self._files))

    @classmethod
    def of(
        cls,
        settings: Settings | None,
        *,
        encrypted: bool,
        namespace: str,
        tuned: SecurityOptimizationConfig,
        redis_tls_enabled: bool,
        **fields: Any,
    ) -> Access | None:
        """The access that settings or constructor arguments describe; None when no argument asks for security.

        Raises ConfigurationError, also when the environment demands TLS or encryption and the arguments do not.
        """
        if settings is not None:
            _check_dev_mode(settings, tuned)
            return cls(settings.target, fields=settings.for_the_cache, tuned=tuned, settings=settings)
        _refuse_downgrade(tls=redis_tls_enabled or str(fields["redis_url"]).startswith("rediss://"), encrypted=encrypted)
        given = {name: value for name, value in fields.items() if value is not None}
        files = [name for name in given if name.endswith("_file")]
        tls = redis_tls_enabled or str(fields["redis_url"]).startswith("rediss://")
        if files and not tls:
            raise ConfigurationError(f"{files[0]} is given although TLS is off; set redis_tls_enabled, or use rediss://")
        if not (redis_tls_enabled or files or {"redis_password", "redis_username"} & given.keys()):
            return None
        known = {name: Path(value) if name.endswith("_file") else value for name, value in given.items()}
        found = tls_files() if tls else {}
        target = build_target(
            **{**found, **known},
            redis_tls_enabled=redis_tls_enabled or None,
            redis_namespace=namespace,
            environment="development" if os.environ.get("ENVIRONMENT", "").strip().lower() == "development" else "production",
        )
        wanted = {"environment", *FOR_THE_CACHE}
        ambient = collect({name: value for name, value in os.environ.items() if name.removesuffix("_FILE").lower() in wanted})
        return cls(target, fields=ambient, tuned=tuned, settings=None)

    @property
    def _in_a_cluster(self) -> bool:
        return self._client == "cluster"

    @property
    def may_scan(self) -> bool:
        """Whether somebody here may be asked to SCAN."""
        return self.target.janitor_password is not None or self.target.username != DEFAULT_USERNAME

    @property
    def may_ask_info(self) -> bool:
        """Whether the cache's own user may be asked for INFO: our ACL gives it to others, and one node of a Cluster tells of itself."""
        return self.target.username != DEFAULT_USERNAME and not self._in_a_cluster

    def client(self, *, timeout: float) -> CacheClient:
        """The cache's own client, connected to nothing yet. Its credentials are read again at each connect."""
        query = dict(parse_qsl(self.target.address.query))  # what the URL says comes first, as with redis-py
        if self._client not in ("redis-py", "sentinel"):
            from redkeep.access.cluster import ClusterClient
            from redkeep.access.limits import limits_of
            from redkeep.access.transport import Transport

            limits = limits_of(self.target)
            seconds = limits.seconds if "socket_timeout" in query else timeout
            connecting = limits.connect_seconds if "socket_connect_timeout" in query else timeout
            chosen = replace(limits, seconds=seconds, connect_seconds=connecting)
            carrier = ClusterClient if self._in_a_cluster else Transport
            return carrier(self.target, limits=chosen, credentials=self._credentials)
        from redkeep.access.redis_py import RedisPyClient

        return RedisPyClient(
            self.target,
            timeout=timeout,
            max_connections=self._tuned.connection_pool_size,
            max_age=self._tuned.connection_max_age,
            credentials=self._credentials,
            primary=self._primary(),
        )

    def _primary(self) -> Primary | None:
        """What finds the server, where Sentinels say which it is."""
        if self._client != "sentinel":
            return None
        from redkeep.access.sentinel import Primary, Sentinels

        return Primary(self.target, Sentinels.of(self._fields))

    def janitor(self, *, timeout: float) -> CacheClient | None:
        """A client that may scan; None when the cache's own user is asked instead. Raises ConfigurationError when nobody may."""
        if self._in_a_cluster:
            raise ConfigurationError("in a Cluster, key names are on several servers; invalidate by operation")
        if self.target.janitor_password is None:
            if self.may_scan:
                return None
            raise ConfigurationError("the cache user may not scan key names; set REDIS_JANITOR_PASSWORD, or invalidate by operation")
        return self._other(JANITOR, "janitor_password", timeout)

    def reporter(self, *, timeout: float) -> CacheClient | None:
        """A client that may ask INFO, when its password is known."""
        if self.target.health_password is None or self._in_a_cluster:
            return None
        return self._other(REPORTER, "health_password", timeout)

    def _other(self, user: str, password: str, timeout: float) -> CacheClient:
        from redkeep.access.redis_py import RedisPyClient

        known = getattr(self._now(), password) or getattr(self.target, password)
        target = self.target._replace(username=user, password=known, env_file=None)
        return RedisPyClient(target, timeout=timeout, max_connections=1, primary=self._primary())

    def _credentials(self) -> tuple[str | None, str | None]:
        return self._login_of(self._now())

    def _login_of(self, now: Target) -> tuple[str | None, str | None]:
        if now.username != self.target.username:  # the environment says otherwise than the file it was made from
            now = self.target
        return now.username, now.password

    def changes(self) -> Changes:
        """What has changed since the last call. Costs one `stat` a file while nothing does."""
        if self._settings is None or tuple(map(stamp, self._files)) == self._seen:
            return Changes()
        self._files = self._settings.files()  # an env file may name others now
        self._seen = tuple(map(stamp, self._files))
        now = self._now()
        keys = now.keys if now.keys and now.keys != self._keys else ()
        self._keys = keys or self._keys
        before, self._login = self._login, self._login_of(now)
        return Changes(keys, before != self._login)

    def _now(self) -> Target:
        """The target with the credentials of this moment."""
        if self._settings is None:
            return self.target
        try:
            self._last = self._settings.reread().target
        except ConfigurationError:  # half written, or moved away: what was read before may still work
            logger.warning("settings_unusable", extra={"files": [str(file) for file in self._files]})
        return self._last


def _refuse_downgrade(*, tls: bool, encrypted: bool) -> None:
    demands_tls = os.environ.get("REDIS_URL", "").startswith("rediss://") or _flag("REDIS_TLS_ENABLED")
    if demands_tls and not tls:
        raise ConfigurationError(
            "the environment requires TLS (REDIS_TLS_ENABLED), but the arguments do not; use SecureAIResponseCache.from_settings()"
        )
    names = ("REDIS_ENCRYPTION_KEY", "REDIS_ENCRYPTION_KEYS", "REDIS_ENCRYPTION_KEY_FILE", "REDIS_ENCRYPTION_KEYS_FILE")
    if any(os.environ.get(name) for name in names) and not encrypted:
        raise ConfigurationError(
            "the environment requires encryption (REDIS_ENCRYPTION_KEY), but the arguments do not; "
            "use SecureAIResponseCache.from_settings()"
        )


def _flag(variable: str) -> bool:
    from redkeep.environment import parse_flag

    value = os.environ.get(variable, "").strip()
    return bool(value) and parse_flag(value, field=variable)


def _check_dev_mode(settings: Settings, tuned: SecurityOptimizationConfig) -> None:
    if settings.redis_dev_mode and not tuned.dev_mode_skip_tls and not settings.redis_tls_enabled:
        raise ConfigurationError("REDIS_TLS_ENABLED is off and dev_mode_skip_tls is false; use rediss://")
