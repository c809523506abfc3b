"""The users of a running server, made from Python where no deploy does it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final

from redkeep.access.acl import USERS, AclUser, Engine, acl_differences, build_users, parse_acl_list, setuser_arguments
from redkeep.crypto.passwords import password_hash, validate_password
from redkeep.environment import collect
from redkeep.errors import ConfigurationError, PermissionDeniedError, ServerUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

VARIABLES: Final = {
    "cache_service": "REDIS_CACHE_PASSWORD",
    "health_service": "REDIS_HEALTH_PASSWORD",
    "cache_janitor": "REDIS_JANITOR_PASSWORD",
    "monitor": "REDIS_MONITOR_PASSWORD",
}
"""Whose password the environment may hold; the first two are needed, as in the PRD."""


class BasicACLManager:
    """Makes users with the rights that `deploys/secure_redis.py` gives them, each in one command, and proves that they are so.

    `default` and everybody else stay as they are: turning `default` off is a stage of a migration, for whoever uses it is locked out.
    """

    def __init__(self, redis: Redis, *, passwords: Mapping[str, str] | None = None) -> None:
        """`redis` is logged in as a user who may ACL, CONFIG and INFO. `passwords` by user name; else those of `VARIABLES`.

        Raises ConfigurationError for an unknown user, and for a password that is missing or too weak.
        """
        self._redis = redis
        if passwords is None:
            fields = collect(os.environ)
            found = {name: str(fields.get(variable.lower()) or "") for name, variable in VARIABLES.items()}
            missing = [VARIABLES[name] for name in ("cache_service", "health_service") if not found[name]]
            if missing:
                raise ConfigurationError(f"{missing[0]} is not set; each user needs its own password")
            passwords = {name: secret for name, secret in found.items() if secret}
        for name, secret in passwords.items():
            if name not in USERS or name == "default":
                raise ConfigurationError(f"user {name!r}: unknown; the users are {', '.join(user for user in USERS if user != 'default')}")
            validate_password(secret, field=f"the password of {name}")
        if not passwords:
            raise ConfigurationError("passwords is empty; name at least one user")
        self._hashes = {name: (password_hash(secret),) for name, secret in passwords.items()}

    async def setup_users(self, *, persist: bool = True) -> tuple[str, ...]:
        """Make the users exactly what they should be, old passwords gone, and save them; returns their names.

        Raises ConfigurationError before anything is changed when the server has no ACL file, unless `persist` is False: its users
        are gone then with its next start. PermissionDeniedError when the login may not do it, ServerUnavailableError without
        an answer.
        """
        if persist and not any((await self._answer(self._redis.config_get("aclfile"), "CONFIG GET")).values()):
            raise ConfigurationError(
                "the server has no ACL file, so its users would be lost in a restart: set aclfile in its configuration, or pass persist=False"
            )
        users = await self._wanted()
        for user in users:
            await self._answer(self._redis.execute_command("ACL", *setuser_arguments(user)), "ACL SETUSER")  # type: ignore[no-untyped-call]
        if left := await self.differences():
            raise ConfigurationError(f"the server did not apply it: {left[0]}")
        if persist:
            await self._answer(self._redis.acl_save(), "ACL SAVE")
        return tuple(user.name for user in users)

    async def differences(self) -> tuple[str, ...]:
        """How these users differ from what they should be, a sentence each. Raises as `setup_users` does."""
        users = await self._wanted()
        lines = await self._answer(self._redis.acl_list(), "ACL LIST")
        running = parse_acl_list(map(_text, lines), version=(await self._server())[1])
        return acl_differences(users, {user.name: running[user.name] for user in users if user.name in running})

    async def _wanted(self) -> tuple[AclUser, ...]:
        engine, version = await self._server()
        users = build_users(engine=engine, version=version, hashes=self._hashes, names=self._hashes)
        return tuple(user for user in users if user.name != "default")

    async def _server(self) -> tuple[Engine, tuple[int, int]]:
        told = await self._answer(self._redis.info("server"), "INFO")
        engine: Engine = "valkey" if told.get("server_name") == "valkey" else "redis"
        major, minor, *_ = str(told[f"{engine}_version"]).split(".")
        return engine, (int(major), int(minor))

    @staticmethod
    async def _answer(reply: Awaitable[Any], command: str) -> Any:
        from redis.exceptions import NoPermissionError, RedisError

        try:
            return await reply
        except NoPermissionError:
            raise PermissionDeniedError(f"this login may not run {command}; log in as the operator") from None
        except (RedisError, OSError) as error:
            raise ServerUnavailableError(f"{command}: no answer ({type(error).__name__})") from None


def _text(line: bytes | str) -> str:
    return line.decode("utf-8", "replace") if isinstance(line, bytes) else line
