"""The API key: where it comes from, what it must be, and who may pass with it."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from redkeep.api.limits import Limits, client_of
from redkeep.environment import read_secret_file
from redkeep.errors import ConfigurationError

VARIABLE: Final = "REDKEEP_API_KEY"
HEADER: Final = "X-API-Key"
MIN_LENGTH: Final = 32
"""Characters: 128 bits also where the key is written in hexadecimal digits (NIST SP 800-131A: at least 112)."""

MAX_LENGTH: Final = 256
MIN_DISTINCT: Final = 8
"""Different characters: 32 random hexadecimal digits have fewer once in 10^7."""

_MAKE: Final = "make one with `openssl rand -hex 32`"

_header = APIKeyHeader(name=HEADER, scheme_name="ApiKey", auto_error=False, description="The key of REDKEEP_API_KEY.")
_bearer = HTTPBearer(scheme_name="Bearer", auto_error=False, description="The same key, for Prometheus' `authorization`.")


class ApiKey:
    """The key, kept as its SHA-256, compared in constant time and never shown."""

    def __init__(self, key: str, *, field: str = VARIABLE) -> None:
        """Raises ConfigurationError naming `field`, never the value, for a key that is short, poor or not plain ASCII."""
        if len(key) < MIN_LENGTH:
            raise ConfigurationError(f"{field} is shorter than {MIN_LENGTH} characters; {_MAKE}")
        if len(key) > MAX_LENGTH:
            raise ConfigurationError(f"{field} is longer than {MAX_LENGTH} characters; {_MAKE}")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError(f"{field} holds a space or what is not printable ASCII, which no header carries; {_MAKE}")
        if len(set(key)) < MIN_DISTINCT:
            raise ConfigurationError(f"{field} repeats fewer than {MIN_DISTINCT} different characters; {_MAKE}")
        self._digest = hashlib.sha256(key.encode("ascii")).digest()

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None, *, other_secrets: Iterable[str] = ()) -> ApiKey:
        """The key of REDKEEP_API_KEY, or of the file that REDKEEP_API_KEY_FILE names.

        `other_secrets` are values it must differ from. Raises ConfigurationError when there is none, or none that will do.
        """
        variables = os.environ if variables is None else variables
        value, pointer = variables.get(VARIABLE), variables.get(f"{VARIABLE}_FILE")
        if value is not None and pointer is not None:
            raise ConfigurationError(f"{VARIABLE} and {VARIABLE}_FILE are both set; keep one")
        field = VARIABLE
        if pointer:
            field = f"{VARIABLE}_FILE"
            value = read_secret_file(Path(pointer), field=field)
        if not value:
            raise ConfigurationError(f"{VARIABLE} is not set, and the API does not start without a key; {_MAKE}")
        if value in other_secrets:
            raise ConfigurationError(f"{field} is also a password or an encryption key; give each its own random value")
        return cls(value, field=field)

    def matches(self, given: str) -> bool:
        """Whether `given` is the key. The time it takes tells nothing about the key."""
        return hmac.compare_digest(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest(), self._digest)

    def __repr__(self) -> str:
        return "ApiKey([REDACTED])"


class Gate:
    """Who may pass: the key and the rate of requests, per address of the client."""

    def __init__(self, key: ApiKey, limits: Limits, *, refused: Callable[[str], object] | None = None) -> None:
        """`refused` is called with the address of whoever sent a wrong key."""
        self.key = key
        self.limits = limits
        self.refused = refused

    def admit(self, client: str, given: str | None) -> None:
        """Let a request with the key `given` pass. Raises HTTPException 401 without the right key, 429 above the limit.

        Requests without the key have a limit of their own: whoever guesses does not shut out who has it.
        """
        known = given is not None and self.key.matches(given)
        self.limit(client, "keyed" if known else "keyless")
        if not known:
            if given is not None and self.refused is not None:
                self.refused(client)
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                f"send the API key in the header {HEADER}" if given is None else "the API key is wrong",
                {"WWW-Authenticate": f'ApiKey realm="redkeep", header="{HEADER}"'},
            )

    def limit(self, client: str, kind: str) -> None:
        """Count a request of that kind. Raises HTTPException 429, with Retry-After in seconds, above the limit."""
        wait = self.limits.wait(client, kind)
        if wait:
            raise HTTPException(
                status.HTTP_429_TOO_MANY_REQUESTS, f"too many requests; try again in {wait} s", {"Retry-After": str(wait)}
            )


def gate_of(request: Request) -> Gate:
    """The application's gate. Raises ConfigurationError when its lifespan did not open one."""
    gate = getattr(request.app.state, "redkeep_gate", None)
    if not isinstance(gate, Gate):
        raise ConfigurationError("the application has no gate; its lifespan did not run: include redkeep_router() before it starts")
    return gate


async def require_key(
    request: Request,
    gate: Annotated[Gate, Depends(gate_of)],
    key: Annotated[str | None, Security(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """A dependency: the request has the API key, and its client asks no more often than it may."""
    gate.admit(client_of(request), key if key is not None else bearer.credentials if bearer else None)


async def limited(request: Request, gate: Annotated[Gate, Depends(gate_of)]) -> None:
    """A dependency for what needs no key: the client asks no more often than it may."""
    gate.limit(client_of(request), "open")
