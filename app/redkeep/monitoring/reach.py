"""From where Redis can be reached: the addresses it listens on when it runs here, the kind of address when it does not."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from redkeep.monitoring.control import Control
from redkeep.monitoring.host import is_here
from redkeep.monitoring.network_space import listening
from redkeep.target import Target

NAME: Final = "network reach"


def probe_reach(target: Target, *, proc: Path = Path("/proc")) -> Iterator[Control]:
    """One control; never raises. A firewall cannot be seen from an address that it lets in, so none is taken for granted."""
    try:
        found = {ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in socket.getaddrinfo(target.host, target.port)}
    except (OSError, ValueError):
        yield Control(NAME, "unknown", "the server's name does not resolve")
        return
    where = f"{target.host} is" if target.host in map(str, found) else f"{target.host} resolves to"
    if is_here(target.host):
        found = set(listening(proc / "self", target.port))
        where = "Redis listens on"
        if not found:
            yield Control(NAME, "unknown", f"nothing is seen to listen on port {target.port} of this machine")
            return
    shown = ", ".join(sorted(map(str, found))[:4])
    unseen = "whether a firewall keeps others out cannot be seen from here"
    if any(address.is_unspecified for address in found):
        yield Control(NAME, "not applicable", f"Redis listens on every address of this machine ({shown}); {unseen}")
    elif any(address.is_global for address in found):
        yield Control(NAME, "not applicable", f"{where} a public address ({shown}); {unseen}")
    else:
        yield Control(NAME, "ok", f"{where} {shown}: {'loopback' if all(a.is_loopback for a in found) else 'private'} only")
