"""The stack of containers as text: one compose.yaml for every host and every developer, its values in a file beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from redkeep.errors import ConfigurationError

SERVICE = "redis"
"""The server's name in compose.yaml, and so on its network."""

# Beside Redis' data its clients' buffers, fragmentation and the pages a snapshot copies want room, in bytes.
OVERHEAD = 64 * 1024**2


@dataclass(frozen=True)
class Limits:
    """What a container may take: bytes of memory, processors, processes."""

    memory: int
    cpus: float
    processes: int


SERVER_PROCESSES = 64

LIMITS = {"api": Limits(256 * 1024**2, 1.0, 64), "dashboard": Limits(512 * 1024**2, 1.0, 128)}
"""As their compose files say."""


@cache
def text(name: str) -> bytes:
    """A file of this package that stands in a container or beside one as it is."""
    return files("redkeep.stack").joinpath(name).read_bytes()


def openssl_policy(minimum_version: str) -> bytes:
    """OPENSSL_CONF of the server. ``minimum_version`` is that of TLS, "1.2" or "1.3"."""
    return text("openssl.cnf").replace(b"MINIMUM", f"TLSv{minimum_version}".encode())


def memory_limit(data_bytes: int) -> int:
    """Bytes that the server's container may take: a half more than its data, and a little."""
    return data_bytes * 3 // 2 + OVERHEAD


def specification(service: str, values: Mapping[str, str], *more: bytes, source: str = "compose.yaml") -> str:
    """A digest of one service's text with its variables in place: another one means another container.

    ``more`` is what else makes it another one, such as files that it reads only when it starts.
    """
    block = re.search(rf"^  {service}:\n(?:(?:    .*)?\n)*", text(source).decode(), re.MULTILINE)
    if block is None:
        raise ConfigurationError(f"{source} has no service {service}")
    filled = re.sub(r"\$\{(\w+):\?\}", lambda match: values.get(match[1], ""), block[0])
    return hashlib.sha256(b"\0".join((filled.encode(), *more))).hexdigest()[:16]


def env_text(values: Mapping[str, str]) -> bytes:
    """The file .env beside compose.yaml."""
    head = "# Managed by redkeep: do not edit. The variables of compose.yaml; none is a secret.\n"
    return (head + "".join(f"{name}={value}\n" for name, value in sorted(values.items()))).encode()


def env_values(text: str) -> dict[str, str]:
    """The variables of such a file, as they were written."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
