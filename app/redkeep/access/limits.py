"""The numbers of the transport, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import parse_qsl

from redkeep.errors import ConfigurationError
from redkeep.target import Target

KIBI = 1024
MEBI = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, how much, how often."""

    seconds: float = 5.0
    """Deadline of each command, as the old class had it."""
    connect_seconds: float = 5.0
    """For socket, TLS and login together."""
    stall_seconds: float = 2.0
    """A connection on which nothing arrives for so long while a reply is overdue is replaced: the server is frozen."""
    commands_in_flight: int = 10_000
    """More than a healthy server leaves unanswered within a deadline on one connection that is worth waiting for."""
    bytes_in_flight: int = 64 * MEBI
    """Of commands, a lane; with what the socket buffers, the memory a stalled server can cost."""
    reply_bytes: int = 64 * MEBI
    """A longer reply is no value of a cache, but a server that does not stop sending."""
    reply_elements: int = MEBI
    """Elements that the header of one list or map may promise: hiredis makes room for all of them before the first arrives, 8 bytes
    each, and nests 9 levels at most; together no more than `reply_bytes` and a little."""
    large_bytes: int = 256 * KIBI
    """Longer commands go on the second connection, so that small ones do not wait behind them."""
    second_idle_seconds: float = 60.0
    """The second connection ends after so long without a command; some 40 KB of the server's memory, a file descriptor each."""
    replays: int = 2
    """A command may be written again so often: one that makes the server drop its connections must not do so for ever."""
    client_name: str = "redkeep"

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            least = 0 if name == "replays" else 1e-3
            if not isinstance(value, str) and not least <= value < math.inf:  # NaN fails too
                raise ConfigurationError(f"{name} must be greater than zero, and finite")
        if not self.client_name.isascii() or not self.client_name.isprintable() or " " in self.client_name:
            raise ConfigurationError("client_name must be printable ASCII without spaces")


def limits_of(target: Target) -> Limits:
    """The defaults, with what the query of REDIS_URL says of time and name. Raises ConfigurationError."""
    query = dict(parse_qsl(target.address.query))
    defaults = Limits()
    try:
        return Limits(
            seconds=float(query.get("socket_timeout", defaults.seconds)),
            connect_seconds=float(query.get("socket_connect_timeout", defaults.connect_seconds)),
            client_name=query.get("client_name", defaults.client_name),
        )
    except ValueError:
        raise ConfigurationError("REDIS_URL has a query option with an unusable value; correct it") from None
