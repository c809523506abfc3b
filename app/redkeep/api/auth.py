"""The gate: who may pass with which key, and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from redkeep.api.keys import ApiKeys
from redkeep.api.limits import Limits, client_of
from redkeep.errors import ConfigurationError

HEADER: Final = "X-API-Key"

_header = APIKeyHeader(name=HEADER, scheme_name="ApiKey", auto_error=False, description="The key from REDKEEP_API_KEY.")
_bearer = HTTPBearer(scheme_name="Bearer", auto_error=False, description="The same key, for Prometheus' `authorization`.")


class Gate:
    """Who may pass: the key and the rate of requests, per address of the client."""

    def __init__(self, keys: ApiKeys, limits: Limits, *, refused: Callable[[str], object] | None = None) -> None:
        """`refused` is called with the address of whoever sent a wrong key."""
        self.keys = keys
        self.limits = limits
        self.refused = refused

    def admit(self, client: str, given: str | None) -> None:
        """Let a request with the key `given` pass. Raises HTTPException 401 without the right key, 429 above the limit.

        Requests without the key have a limit of their own: whoever guesses does not shut out who has it.
        """
        known = self.keys.which(given) if given is not None else None
        self.limit(client, "keyed" if known else "keyless")
        if known == "older":
            self.keys.older_key_use.note(client)
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
        raise ConfigurationError("the API's lifespan did not run: include redkeep_router() before the application starts")
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
