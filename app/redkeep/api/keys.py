"""The API's keys: where they come from, what they must be, and which one a caller has."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from redkeep.access.tls import stamp
from redkeep.environment import read_secret_file
from redkeep.errors import ConfigurationError

logger = logging.getLogger(__name__)

VARIABLE: Final = "REDKEEP_API_KEY"
OLDER_VARIABLE: Final = "REDKEEP_API_OLDER_KEY"
MAX_CALLERS: Final = 32
"""Addresses that are remembered for who still has the key before; whoever rotates wants to know some."""

MIN_LENGTH: Final = 32
"""Characters: 128 bits also where the key is written in hexadecimal digits (NIST SP 800-131A: at least 112)."""

MAX_LENGTH: Final = 256
MIN_DISTINCT: Final = 8
"""Different characters: 32 random hexadecimal digits have fewer once in 10^7."""

_MAKE: Final = "make one with `openssl rand -hex 32`"


class ApiKey:
    """The key, kept as its SHA-256, compared in constant time and never shown."""

    def __init__(self, key: str, *, field: str = VARIABLE) -> None:
        """Raises ConfigurationError naming `field`, never the value, for a key that is short, poor or not plain ASCII."""
        if len(key) < MIN_LENGTH:
            raise ConfigurationError(f"{field} is shorter than {MIN_LENGTH} characters; {_MAKE}")
        if len(key) > MAX_LENGTH:
            raise ConfigurationError(f"{field} is longer than {MAX_LENGTH} characters; {_MAKE}")
        if not key.isascii() or not key.isprintable() or " " in key:
            what = "a space, a line end or a character that is not printable ASCII"
            raise ConfigurationError(f"{field} contains {what}, which a header cannot carry; {_MAKE}")
        if len(set(key)) < MIN_DISTINCT:
            raise ConfigurationError(f"{field} repeats fewer than {MIN_DISTINCT} different characters; {_MAKE}")
        self._digest = hashlib.sha256(key.encode("ascii")).digest()

    def matches(self, given: str) -> bool:
        """Whether `given` is the key. The time it takes tells nothing about the key."""
        return hmac.compare_digest(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest(), self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and hmac.compare_digest(self._digest, other._digest)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return "ApiKey([REDACTED])"


class ApiKeys:
    """The key, and beside it the one before while a rotation lasts. What comes from files is looked at again when they change."""

    def __init__(self, newest: ApiKey, older: ApiKey | None = None) -> None:
        self.older_key_use = OlderKeyUse()
        self._newest, self._older = newest, older
        self._files: tuple[Path, ...] = ()
        self._seen: tuple[object, ...] = ()
        self._read: Callable[[], tuple[ApiKey, ApiKey | None]] | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None, *, other_secrets: Iterable[str] = ()) -> ApiKeys:
        """The key of REDKEEP_API_KEY, or of the file that REDKEEP_API_KEY_FILE names; and REDKEEP_API_OLDER_KEY or the file of
        REDKEEP_API_OLDER_KEY_FILE, which need not exist.

        `other_secrets` are values they must differ from. Raises ConfigurationError when there is none, or none that will do.
        """
        variables, others = os.environ if variables is None else variables, frozenset(other_secrets)

        def read() -> tuple[ApiKey, ApiKey | None]:
            newest = _read_key(variables, VARIABLE, others)
            if newest is None:
                raise ConfigurationError(f"{VARIABLE} is not set, and the API does not start without a key; {_MAKE}")
            older = _read_key(variables, OLDER_VARIABLE, others)
            return newest, None if older == newest else older

        keys = cls(*read())
        keys._read = read
        keys._files = tuple(Path(file) for name in (VARIABLE, OLDER_VARIABLE) if (file := variables.get(f"{name}_FILE")))
        keys._seen = tuple(map(stamp, keys._files))
        return keys

    def which(self, given: str) -> Literal["newest", "older"] | None:
        """Which key `given` is. Both are compared, whatever the first says."""
        self._look_again()
        newest = self._newest.matches(given)
        older = self._older is not None and self._older.matches(given)
        return "newest" if newest else "older" if older else None

    @property
    def two(self) -> bool:
        """Whether the one before opens, too."""
        self._look_again()
        return self._older is not None

    def _look_again(self) -> None:
        if not self._files or (seen := tuple(map(stamp, self._files))) == self._seen or self._read is None:
            return
        try:
            newest, older = self._read()
        except ConfigurationError as error:  # half written, or moved away: what worked before goes on
            logger.warning("api_key_not_read", extra={"reason": str(error)})
        else:
            if older != self._older:
                self.older_key_use = OlderKeyUse()
            self._newest, self._older = newest, older
        self._seen = seen


@dataclass
class OlderKeyUse:
    """Who has used the key before since this process knows that there is a newer one; moments by the monotonic clock, in seconds."""

    since: float = field(default_factory=time.monotonic)
    requests: int = 0
    last: float | None = None
    callers: dict[str, int] = field(default_factory=dict)

    def note(self, client: str) -> None:
        """It was used by this address."""
        self.requests += 1
        self.last = time.monotonic()
        if client in self.callers or len(self.callers) < MAX_CALLERS:
            self.callers[client] = self.callers.get(client, 0) + 1


def _read_key(variables: Mapping[str, str], name: str, others: frozenset[str]) -> ApiKey | None:
    """The key of a variable, or of the file that its `_FILE` names. Raises ConfigurationError."""
    value, pointer, field = variables.get(name), variables.get(f"{name}_FILE"), name
    if value is not None and pointer is not None:
        raise ConfigurationError(f"{name} and {name}_FILE are both set; keep one")
    if pointer and (name == VARIABLE or os.path.lexists(pointer)):
        field = f"{name}_FILE"
        value = read_secret_file(Path(pointer), field=field)
        if not value and name == VARIABLE:
            raise ConfigurationError(f"{field}: {pointer} is empty; {_MAKE}")
    if not value:
        return None
    if value in others:
        raise ConfigurationError(f"{field} is also a password or an encryption key; give each its own random value")
    return ApiKey(value, field=field)
