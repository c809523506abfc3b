"""What a process's network looks like from outside: its own addresses and the ports it listens on, as every user may read
them below /proc/<pid>/net. A container has a network of its own, and its processes show here all the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Final

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTEN: Final = "0A"
"""TCP_LISTEN in /proc/net/tcp (Linux, net/tcp_states.h)."""


def owns(process: Path, address: str) -> bool:
    """Whether `address` belongs to the network of `process` (a folder in /proc); False when that cannot be read."""
    try:
        if ":" not in address:
            return address in _own_addresses((process / "net/fib_trie").read_text("ascii"))
        wanted = ipaddress.IPv6Address(address.partition("%")[0]).packed.hex()
        return any(row.split()[0] == wanted for row in (process / "net/if_inet6").read_text("ascii").splitlines() if row.strip())
    except (OSError, ValueError):
        return False


def _own_addresses(fib_trie: str) -> Iterator[str]:
    """`|-- 10.0.0.5`, and below it `/32 host LOCAL`; broadcasts and whole networks say something else there."""
    leaf = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words == ["/32", "host", "LOCAL"]:
            yield leaf


def listening(process: Path, port: int) -> Iterator[Ip]:
    """The addresses that something in the network of `process` (a folder in /proc) listens on at `port`."""
    for table in ("tcp", "tcp6"):
        try:
            rows = (process / "net" / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            words = row.split()
            address, _, number = words[1].partition(":")
            if words[3] == _LISTEN and int(number, 16) == port:
                yield _address(address)


def _address(text: str) -> Ip:
    """An address as the kernel prints it: 32-bit words in the machine's order, little-endian on the machines we know."""
    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return ipaddress.IPv4Address(raw) if len(raw) == 4 else ipaddress.IPv6Address(raw)
