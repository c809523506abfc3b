"""How often a client may ask: a token bucket an address and kind of request, in bounded memory."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.requests import HTTPConnection

from redkeep.errors import ConfigurationError

VARIABLE: Final = "REDKEEP_API_RATE_LIMIT"
DEFAULT_PER_MINUTE: Final = 600
"""Requests a minute with the key: a dashboard asks some 100, Prometheus 4."""

KEYLESS_SHARE: Final = 20
"""Without the key, or with a wrong one, a 20th: 30 a minute."""

ALERT_TESTS_PER_MINUTE: Final = 3
"""Each sends a mail and a message to people."""

MAX_CLIENTS: Final = 4_096
"""Buckets that are kept; the one not seen for longest goes first. Some 200 bytes each."""


class Limits:
    """Token buckets: each kind refills evenly over a minute and holds at most a minute's worth."""

    def __init__(self, per_minute: int = DEFAULT_PER_MINUTE, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` requests of one client with the key; `clock` is in seconds."""
        self._per_minute = {
            "keyed": per_minute,
            "open": per_minute,
            "keyless": max(1, per_minute // KEYLESS_SHARE),
            "alert test": min(ALERT_TESTS_PER_MINUTE, per_minute),
        }
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Limits:
        """The limits of REDKEEP_API_RATE_LIMIT. Raises ConfigurationError unless it is 1 to 1000000."""
        text = (os.environ if variables is None else variables).get(VARIABLE, str(DEFAULT_PER_MINUTE))
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
            raise ConfigurationError(f"{VARIABLE} must be a whole number of requests a minute, 1 to 1000000")
        return cls(int(text))

    def wait(self, client: str, kind: str) -> int:
        """Count a request. Returns 0 when it may pass, else the whole seconds until one may; a refusal costs nothing."""
        rate = self._per_minute[kind]
        now = self._clock()
        tokens, seen = self._buckets.get((client, kind), (float(rate), now))
        tokens = min(float(rate), tokens + (now - seen) * rate / 60)
        passes = tokens >= 1
        self._buckets[client, kind] = (tokens - 1 if passes else tokens, now)
        self._buckets.move_to_end((client, kind))
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if passes else max(1, math.ceil((1 - tokens) * 60 / rate))


def client_of(connection: HTTPConnection) -> str:
    """Who asks: the peer's address, of IPv6 the first 64 bits (RFC 6177: what one site has). No header can change it."""
    host = connection.client.host if connection.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address)
