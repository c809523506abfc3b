"""The target: one Redis, how to reach it, as whom, and with which keys. The settings after every check.

Plain and light, so that probes and the multiplexed transport need neither pydantic nor redis-py. `Settings.target` and
`read_target` build it by the same function: one validated configuration decides, and a mismatch is an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redkeep.crypto.passwords import validate_password
from redkeep.environment import collect, read_env_file
from redkeep.errors import ConfigurationError

DEFAULT_PORT: Final = 6379
DEFAULT_USERNAME: Final = "cache_service"
"""The user that REDIS_CACHE_PASSWORD belongs to, unless REDIS_USERNAME says otherwise."""

OPTIONS: Final = frozenset(
    {
        "client_name",
        "db",
        "health_check_interval",
        "max_connections",
        "protocol",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_timeout",
    }
)
"""What the query of a Redis URL may set (the names are redis-py's); TLS and credentials have settings of their own."""

DEFAULT_CLIENT: Final = "transport"
"""What carries the commands when REDIS_CLIENT does not say; the others are redis-py, sentinel, and cluster for a Redis Cluster."""

FOR_THE_CACHE: Final = frozenset(
    {
        *("redis_client", "redis_client_tracking", "redis_compression", "redis_read_legacy"),
        *("redis_sentinels", "redis_sentinel_name", "redis_sentinel_username", "redis_sentinel_password"),
    }
)
"""Settings that say how the cache works, and nothing about the way to Redis."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Address(NamedTuple):
    """A Redis URL taken apart. `path` and `query` are kept as they were; the rest is decoded."""

    scheme: str
    host: str
    port: int | None
    database: int
    path: str
    query: str
    username: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"Address({self.scheme}://{self.host}:{self.port or DEFAULT_PORT}/{self.database})"

    def url(self, *, tls: bool, username: str | None = None, password: str | None = None) -> str:
        """The URL again, with these credentials, percent-encoded, in place of its own."""
        user = quote(username, safe="") if username else ""
        login = f"{user}:{quote(password, safe='')}@" if password else (f"{user}@" if user else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        query = f"?{self.query}" if self.query else ""
        return f"{'rediss' if tls else 'redis'}://{login}{host}{port}{self.path}{query}"


class Target(NamedTuple):
    """What a connection needs. Secrets are plain here and never shown: `repr` leaves them out."""

    address: Address
    tls: bool
    username: str | None
    password: str | None
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    tls_min_version: str
    keys: tuple[str, ...]
    namespace: str
    development: bool
    env_file: Path | None = None
    janitor_password: str | None = None
    health_password: str | None = None
    monitor_password: str | None = None

    @property
    def host(self) -> str:
        """Name or address of the server, IPv6 without brackets."""
        return self.address.host

    @property
    def port(self) -> int:
        """TCP port; 6379 when the URL names none."""
        return self.address.port or DEFAULT_PORT

    def __repr__(self) -> str:
        return f"Target({self.host}:{self.port}, tls={self.tls}, username={self.username!r}, keys={len(self.keys)})"


def parse_url(url: str) -> Address:
    """Take a Redis URL apart. Raises ConfigurationError; the message never repeats the URL, which can hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts = None
    if parts is None:  # said out here: what urllib says repeats a piece of the URL, and would be this error's context
        raise ConfigurationError("REDIS_URL cannot be read; write rediss://host:port/0 and put the password into REDIS_CACHE_PASSWORD")
    if parts.scheme not in ("redis", "rediss"):
        raise ConfigurationError("REDIS_URL must begin with rediss:// or redis://")
    labels = unquote(host or "").removesuffix(".").split(".")  # of a DNS name 1 to 63 characters: RFC 1035, 2.3.4; IPv6 has one
    if not all(0 < len(label) < 64 for label in labels) or port == 0 or any(not c.isprintable() or c.isspace() for c in url):
        raise ConfigurationError("REDIS_URL has no usable host and port; write rediss://host:port/0")
    if parts.fragment:
        raise ConfigurationError("REDIS_URL contains a '#'; put the password into REDIS_CACHE_PASSWORD, not into the URL")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not query.keys() <= OPTIONS:  # not repeated: a stray '?' may have cut a password in two
        raise ConfigurationError(f"REDIS_URL has a query option that is not one of {', '.join(sorted(OPTIONS))}")
    database = parts.path.strip("/") or query.get("db", "0")
    if not (database.isascii() and database.isdigit()):
        raise ConfigurationError("REDIS_URL has a database that is not a number; write rediss://host:port/0")
    return Address(
        scheme=parts.scheme,
        host=unquote(host or ""),
        port=port,
        database=int(database),
        path=parts.path,
        query=parts.query,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def reconcile(
    address: Address, *, tls_enabled: bool | None, username: str | None, password: object | None
) -> bool:
    """Tell whether TLS is on, after the URL was held against the settings beside it.

    `redis://` with TLS enabled becomes `rediss://`. Raises ConfigurationError for `rediss://` with TLS explicitly
    disabled, and for two users or two passwords.
    """
    if tls_enabled is False and address.scheme == "rediss":
        raise ConfigurationError("REDIS_URL begins with rediss:// but REDIS_TLS_ENABLED is false; remove one of the two")
    if address.password and password:
        raise ConfigurationError("REDIS_URL contains a password although one is also set separately; remove it from the URL")
    if address.username and username and address.username != username:
        raise ConfigurationError("REDIS_URL and REDIS_USERNAME name different users; keep REDIS_USERNAME")
    return bool(tls_enabled) or address.scheme == "rediss"


def build_target(
    *,
    redis_url: str,
    redis_username: str | None = None,
    redis_password: str | None = None,
    redis_cache_password: str | None = None,
    redis_health_password: str | None = None,
    redis_janitor_password: str | None = None,
    redis_monitor_password: str | None = None,
    redis_tls_enabled: bool | None = None,
    redis_tls_ca_file: Path | str | None = None,
    redis_tls_cert_file: Path | str | None = None,
    redis_tls_key_file: Path | str | None = None,
    redis_tls_min_version: str = "1.3",
    redis_encryption_key: str | None = None,
    redis_encryption_keys: str | None = None,
    redis_namespace: str = "",
    redis_protected_mode: bool = True,
    redis_dev_mode: bool = False,
    environment: str = "production",
    env_file: Path | None = None,
) -> Target:
    """Check the settings against each other and return what a connection needs.

    Credentials in the URL move out of it. The login is REDIS_CACHE_PASSWORD as `cache_service`, else REDIS_PASSWORD;
    REDIS_USERNAME overrides the name. Raises ConfigurationError with one sentence: which setting, and what to do.
    """
    if environment not in ("production", "development"):
        raise ConfigurationError("ENVIRONMENT must be production or development")
    development = environment == "development"
    if redis_dev_mode and not development:
        raise ConfigurationError("REDIS_DEV_MODE is refused in production; remove it, or set ENVIRONMENT=development")
    if not redis_protected_mode and not development:
        raise ConfigurationError("REDIS_PROTECTED_MODE=false is refused in production; remove it")
    if redis_tls_min_version not in ("1.2", "1.3"):
        raise ConfigurationError("REDIS_TLS_MIN_VERSION must be 1.3 or 1.2")
    if not redis_namespace.isprintable():
        raise ConfigurationError("REDIS_NAMESPACE holds a control character; remove it")
    address = parse_url(redis_url)
    tls = reconcile(
        address,
        tls_enabled=redis_tls_enabled,
        username=redis_username,
        password=redis_password or redis_cache_password,
    )
    if (redis_tls_cert_file is None) != (redis_tls_key_file is None):
        raise ConfigurationError("REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE belong together; set both or neither")
    passwords = {
        "REDIS_URL (its password)": address.password,
        "REDIS_PASSWORD": redis_password,
        "REDIS_CACHE_PASSWORD": redis_cache_password,
        "REDIS_HEALTH_PASSWORD": redis_health_password,
        "REDIS_JANITOR_PASSWORD": redis_janitor_password,
        "REDIS_MONITOR_PASSWORD": redis_monitor_password,
    }
    for field, secret in passwords.items():
        if secret is not None:
            validate_password(secret, field=field)
    keys = _keys(redis_encryption_key, redis_encryption_keys)
    for field, secret in passwords.items():
        if secret is not None and secret.rstrip("=") in {key.rstrip("=") for key in keys}:
            raise ConfigurationError(f"{field} is also the encryption key; give each its own random value")

    password = redis_cache_password or redis_password or address.password
    username = redis_username or address.username or (DEFAULT_USERNAME if redis_cache_password else None)
    if username and not password:
        raise ConfigurationError("REDIS_USERNAME is set without a password; set REDIS_CACHE_PASSWORD")
    if password and not tls and not development and address.host not in _LOOPBACK:
        raise ConfigurationError("REDIS_TLS_ENABLED is off: the password would cross the network unencrypted; use rediss://")
    return Target(
        address=address._replace(username=None, password=None),
        tls=tls,
        username=username,
        password=password,
        ca_file=_path(redis_tls_ca_file),
        cert_file=_path(redis_tls_cert_file),
        key_file=_path(redis_tls_key_file),
        tls_min_version=redis_tls_min_version,
        keys=keys,
        namespace=redis_namespace,
        development=development,
        env_file=env_file,
        janitor_password=redis_janitor_password,
        health_password=redis_health_password,
        monitor_password=redis_monitor_password,
    )


def read_target(env_file: Path | None = None) -> Target:
    """The target of an env file, or of this process's environment when none is given. Raises ConfigurationError."""
    fields = collect(read_env_file(env_file) if env_file else os.environ)
    for unneeded in FOR_THE_CACHE:
        fields.pop(unneeded, None)
    fields.setdefault("redis_url", f"redis://redis:{DEFAULT_PORT}")
    return build_target(**fields, env_file=env_file)  # type: ignore[arg-type]  # names are those of VARIABLES


def read_for_the_cache(env_file: Path | None = None) -> dict[str, Any]:
    """The settings of FOR_THE_CACHE that are there, `redis_client` always, from where `read_target` reads. Raises ConfigurationError."""
    fields = collect(read_env_file(env_file) if env_file else os.environ)
    return {"redis_client": DEFAULT_CLIENT, **{name: value for name, value in fields.items() if name in FOR_THE_CACHE}}


def _keys(single: str | None, ring: str | None) -> tuple[str, ...]:
    from redkeep.crypto.keyring import decode_key  # here: it loads the cipher, which not every caller needs

    if single and ring:
        raise ConfigurationError("REDIS_ENCRYPTION_KEY and REDIS_ENCRYPTION_KEYS are both set; keep the ring")
    field = "REDIS_ENCRYPTION_KEYS" if ring else "REDIS_ENCRYPTION_KEY"
    keys = tuple((ring or "").replace(",", " ").split()) if ring else ((single,) if single else ())
    if ring and not keys:
        raise ConfigurationError("REDIS_ENCRYPTION_KEYS contains no key; write keys separated by commas, newest first")
    for place, key in enumerate(keys, 1):
        decode_key(key, field=f"{field} (key {place})" if len(keys) > 1 else field)
    if len(set(keys)) != len(keys):
        raise ConfigurationError(f"{field} contains a key twice; remove the copy")
    return keys


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
