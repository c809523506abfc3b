"""The settings of an application that uses the cache: read once, checked against each other, never shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from redkeep.environment import SECRETS, SOURCE, collect, files_of, read_env_file
from redkeep.errors import ConfigurationError
from redkeep.target import DEFAULT_CLIENT, DEFAULT_PORT, FOR_THE_CACHE, Target, build_target, parse_url, reconcile


class Settings(BaseSettings):
    """Every setting, from keyword arguments, then the environment (`REDIS_URL`, ...), then the defaults.

    `Settings.load(path)` takes an env file as the whole truth instead of the environment. Each secret can come from a
    file: `REDIS_PASSWORD_FILE` and so on. Whatever does not hold raises ConfigurationError: one sentence that names the
    setting and the next step, never the value. Frozen; `repr` shows no secret, and `redis_url` holds none either,
    because credentials in the URL are moved to the fields for them.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False, env_prefix=""
    )

    environment: Literal["production", "development"] = Field(
        default="production", description="Development allows dev mode and plaintext; production refuses both"
    )
    redis_url: str = Field(default=f"redis://redis:{DEFAULT_PORT}", description="Redis connection URL for caching")
    redis_username: str | None = Field(default=None, description="Redis user; cache_service with a cache password")
    redis_password: SecretStr | None = Field(default=None, description="Redis password for authentication")
    redis_cache_password: SecretStr | None = Field(default=None, description="Password of the user cache_service")
    redis_health_password: SecretStr | None = Field(default=None, description="Password of the user health_service")
    redis_janitor_password: SecretStr | None = Field(
        default=None, description="Password of the user cache_janitor; only for invalidation by a name pattern"
    )
    redis_monitor_password: SecretStr | None = Field(
        default=None, description="Password of the user monitor; only for the security monitoring"
    )
    redis_tls_enabled: bool = Field(default=False, description="Enable TLS encryption for Redis connections")
    redis_tls_ca_file: Path | None = Field(default=None, description="The only trusted CA, PEM")
    redis_tls_cert_file: Path | None = Field(default=None, description="Client certificate, PEM")
    redis_tls_key_file: Path | None = Field(default=None, description="Key of the client certificate, PEM")
    redis_tls_min_version: Literal["1.3", "1.2"] = Field(default="1.3", description="Lowest TLS version")
    redis_encryption_key: SecretStr | None = Field(
        default=None, description="Encryption key for application-layer encryption: 32 bytes, URL-safe base64"
    )
    redis_encryption_keys: SecretStr | None = Field(
        default=None, description="Key ring instead of one key, separated by commas, newest first"
    )
    redis_namespace: str = Field(default="", description="Separates tenants; part of every key and encrypted value")
    redis_compression: Literal["none", "lz4", "zstd"] = Field(default="none", description="Compression before encryption")
    redis_client: Literal["redis-py", "transport", "sentinel", "cluster"] = Field(
        default=DEFAULT_CLIENT, description="The client that sends the commands"
    )
    redis_sentinels: str = Field(default="", description="host:port of each Sentinel, comma separated; with the client sentinel")
    redis_sentinel_name: str = Field(default="mymaster", description="The Sentinels' name for the primary")
    redis_sentinel_username: str | None = Field(default=None, description="User on the Sentinels, which have their own users")
    redis_sentinel_password: SecretStr | None = Field(default=None, description="Password on the Sentinels")
    redis_client_tracking: bool = Field(default=False, description="Keep what was read in memory until the server says it changed")
    redis_read_legacy: bool = Field(default=False, description="Read unencrypted entries: migration windows only")
    redis_protected_mode: bool = Field(default=True, description="Redis protected mode; production refuses false")
    redis_dev_mode: bool = Field(default=False, description="Development only: allows plaintext beyond this host")

    _target: Target = PrivateAttr()
    _origin: dict[str, Any] = PrivateAttr()

    def __init__(self, **values: Any) -> None:
        origin = dict(values)
        try:
            super().__init__(**values)
        except ValidationError as error:  # its text echoes inputs; ours names the setting
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]).upper() or "settings"
            problem = "is not a setting of Redkeep" if first["type"] == "extra_forbidden" else f"is wrong: {first['msg']}"
            raise ConfigurationError(f"{name} {problem}; correct it") from None
        self._origin = origin

    @classmethod
    def load(cls, env_file: Path | None = None) -> Self:
        """The settings of an env file such as /etc/redkeep/cache.env, or of this process's environment.

        Raises ConfigurationError.
        """
        if env_file is not None:
            read_env_file(env_file)  # says what is wrong with the file itself, before pydantic's own reader meets it
        return cls(_env_file=env_file)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments first; then our own reader, the one that `redkeep status` uses."""
        env_file = dotenv_settings.env_file if isinstance(dotenv_settings, DotEnvSettingsSource) else None
        path = env_file if isinstance(env_file, (str, os.PathLike)) else None
        return init_settings, _Environment(settings_cls, Path(path) if path else None)

    @model_validator(mode="before")
    @classmethod
    def _move_credentials(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take credentials out of the URL, and let `rediss://` and `redis_tls_enabled` agree."""
        url = values.get("redis_url", cls.model_fields["redis_url"].default)
        enabled = values.get("redis_tls_enabled")
        if not isinstance(url, str) or not isinstance(enabled, bool | None):
            return values  # pydantic says so better
        address = parse_url(url)
        password = values.get("redis_password") or values.get("redis_cache_password")
        username = values.get("redis_username")
        tls = reconcile(address, tls_enabled=enabled, username=username, password=password)
        moved: dict[str, Any] = {"redis_url": address.url(tls=tls), "redis_tls_enabled": tls}
        if address.password:
            moved["redis_password"] = address.password
        if address.username:
            moved["redis_username"] = address.username
        return {**values, **moved}

    @model_validator(mode="after")
    def _check(self) -> Self:
        fields = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        fields = {name: value for name, value in fields.items() if name not in FOR_THE_CACHE}
        self._target = build_target(**fields)
        return self

    @property
    def target(self) -> Target:
        """What a connection needs: the settings after every check, in plain types."""
        return self._target

    @property
    def for_the_cache(self) -> dict[str, Any]:
        """What says how the cache works, in plain types."""
        return {name: _plain(getattr(self, name)) for name in FOR_THE_CACHE}

    def reread(self) -> Self:
        """The settings as their sources are now: environment, env file, secret files; the file that REDIS_SETTINGS_FILE names
        stands for the environment that was made from it. Raises ConfigurationError."""
        source = os.environ.get(SOURCE)
        if source and self._origin.get("_env_file") is None:
            return type(self)(**{**self._origin, "_env_file": Path(source)})
        return type(self)(**self._origin)

    def files(self) -> tuple[Path, ...]:
        """The files that `reread` reads, beside the environment: where a rotated key or password shows."""
        if named := self._origin.get("_env_file") or os.environ.get(SOURCE):
            try:
                return files_of(Path(named))
            except ConfigurationError:  # it is not there yet, or half written
                return (Path(named),)
        pointers = (os.environ.get(f"{field.upper()}_FILE") for field in sorted(SECRETS))
        return tuple(Path(file) for file in pointers if file)

    @property
    def redis_security_enabled(self) -> bool:
        """Whether any of password, TLS and encryption is on. The posture tells whether they hold."""
        return bool(self._target.password or self._target.tls or self._target.keys)

    def get_secure_redis_url(self) -> str:
        """The URL with the credentials, for libraries that take nothing else. It holds a secret: never log it.

        User, password and database are percent-encoded, IPv6 has its brackets, the query stays, a missing port stays
        missing, and TLS means `rediss://` also without a password.
        """
        target = self._target
        return target.address.url(tls=target.tls, username=target.username, password=target.password)


class _Environment(PydanticBaseSettingsSource):
    """The environment, or one env file alone, through `redkeep.environment`."""

    def __init__(self, settings_cls: type[BaseSettings], env_file: Path | None) -> None:
        super().__init__(settings_cls)
        self._env_file = env_file

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Not used: the reader gives all fields at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        return dict(collect(read_env_file(self._env_file) if self._env_file else os.environ))


def _plain(value: object) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
