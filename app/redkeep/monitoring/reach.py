"""From where Redis can be reached: the addresses it listens on when it runs here, the kind of address when it does not."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from redkeep.monitoring.control import Control
from redkeep.monitoring.host import is_here
from redkeep.target import Target

NAME: Final = "network reach"
_LISTEN: Final = "0A"
"""TCP_LISTEN in /proc/net/tcp (Linux, net/tcp_states.h)."""

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def probe_reach(target: Target, *, proc: Path = Path("/proc")) -> Iterator[Control]:
    """One control; never raises. A firewall cannot be seen from an address that it lets in, so none is taken for granted."""
    try:
        found = {ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in socket.getaddrinfo(target.host, target.port)}
    except (OSError, ValueError):
        yield Control(NAME, "unknown", "the server's name does not resolve")
        return
    where = f"{target.host} is" if target.host in map(str, found) else f"{target.host} resolves to"
    if is_here(target.host):
        found = set(listening(target.port, proc)) or found
        where = "Redis listens on"
    shown = ", ".join(sorted(map(str, found))[:4])
    unseen = "whether a firewall keeps others out cannot be seen from here"
    if any(address.is_unspecified for address in found):
        yield Control(NAME, "not applicable", f"Redis listens on every address of this machine ({shown}); {unseen}")
    elif any(address.is_global for address in found):
        yield Control(NAME, "not applicable", f"{where} a public address ({shown}); {unseen}")
    else:
        yield Control(NAME, "ok", f"{where} {shown}: {'loopback' if all(a.is_loopback for a in found) else 'private'} only")


def listening(port: int, proc: Path = Path("/proc")) -> Iterator[Ip]:
    """The local addresses that something listens on at `port`, from this network namespace's socket tables."""
    for table in ("tcp", "tcp6"):
        try:
            rows = (proc / "self/net" / table).read_text("ascii").splitlines()[1:]
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
